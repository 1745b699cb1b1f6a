"""Archives that are damaged, incomplete or something else: refused with a reason, and nothing is left behind."""

import contextlib
import hashlib
import io
import shutil
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mirror_server import serve
from omniglot_zips import CLASSES, members, png, scribble, write_archives, write_zip
from PIL import Image

from firstsight.errors import InputError
from firstsight.lab.data.download import Polite, fetch
from firstsight.lab.data.omniglot import archives as omniglot_archives
from firstsight.lab.data.omniglot import drawings as omniglot
from firstsight.lab.data.omniglot import prepare

FIRST = "images_background/Greek/character01/0394_01.png"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for split, number in CLASSES.items():
        monkeypatch.setitem(omniglot_archives.CLASSES, split, number)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return write_archives(tmp_path / "archives")


def rewrite(archives: Path, files: dict[str, bytes], split: str = "background", **options) -> Path:
    return write_zip(archives / f"images_{split}.zip", files, **options)


def refuse(source: Path, match: str) -> str:
    """The preparation is refused in one line, and leaves nothing."""
    out = source.parent / "refused"
    with pytest.raises(InputError, match=match) as caught:
        prepare(source, out)
    assert "\n" not in str(caught.value)
    assert not out.exists() or list(out.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize(
    "member",
    [
        *("../evil.png", "/etc/evil.png", "images_background/../../evil.png", "C:/evil.png"),
        *("images_background/Greek/character01/../../../../evil.png", "images_background\\..\\..\\evil.png"),
    ],
)
def test_members_that_lead_outside(archives: Path, tmp_path: Path, member: str) -> None:
    rewrite(archives, {**members("background"), member: png(scribble(0))})
    assert "images_background.zip" in refuse(archives, r"leads outside of the archive.*zip the folder images_backgr")
    assert not list(tmp_path.rglob("evil.png"))


@pytest.mark.parametrize(
    "member",
    [
        *("readme.txt", "images_evaluation/Greek/character01/0394_01.png", "images_background/Greek/0394_01.png"),
        *("images_background/Greek/character01/0394_01.jpg", "images_background/Greek/character01/394_1.png"),
        *("images_background/Greek/character01/more/0394_01.png", "x/images_background/Greek/character01/0394_01.png"),
        *("images_background/Gre\nek/character01/0394_01.png", "images_background/Greek/character٠١/0394_01.png"),
        *("images_other/", "images_background/Greek/drawings/"),
    ],
)
def test_members_elsewhere(archives: Path, member: str) -> None:
    rewrite(archives, {**members("background"), member: png(scribble(0))})
    refuse(archives, r"images_background\.zip: the member .* lies elsewhere; expected images_background/ALPHABET/")


def test_archives_of_each_other(archives: Path) -> None:
    shutil.copy(archives / "images_evaluation.zip", archives / "images_background.zip")
    refuse(archives, "lies elsewhere; expected images_background/")


def without(member: str) -> dict[str, bytes]:
    return {name: content for name, content in members("background").items() if name != member}


def test_other_numbers_of_drawings(archives: Path) -> None:
    rewrite(archives, without(FIRST))
    refuse(archives, r"Greek/character01 has 19 drawings, without 01; expected 01 to 20\. Fetch the archive anew")
    rewrite(archives, {**members("background"), FIRST.replace("_01.png", "_21.png"): png(scribble(0))})
    refuse(archives, r"Greek/character01 has 21 drawings, with 21; expected 01 to 20")
    rewrite(archives, {**without(FIRST), FIRST.replace("_01.png", "_00.png"): png(scribble(0))})
    refuse(archives, r"has 20 drawings, without 01 and with 00; expected")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(archives / "images_background.zip", "a") as file:
        file.writestr(FIRST.replace("_01.png", "_02.png"), png(scribble(0)))
    refuse(archives, "0394_02.png is there twice")


def test_other_numbers_of_classes(archives: Path) -> None:
    whole = members("background")
    rewrite(archives, {name: content for name, content in whole.items() if "character02" not in name})
    refuse(archives, "2 classes; the background split of Omniglot has 3 of 20 drawings each")
    more = {name.replace("Greek", "Latin"): content for name, content in whole.items() if "Greek" in name}
    rewrite(archives, {**whole, **more})
    refuse(archives, "5 classes; the background split")
    rewrite(archives, {})
    refuse(archives, "0 classes")
    rewrite(archives, {name.replace("0394_2", "0555_2"): content for name, content in whole.items()})
    refuse(archives, "Greek/character01 holds drawings of the classes 0555 and 0394|0394 and 0555")


def image_of(size: tuple[int, int], mode: str = "1", kind: str = "PNG") -> bytes:
    raw = io.BytesIO()
    Image.new(mode, size).save(raw, kind)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (image_of((28, 28)), r"0394_01\.png has 28 x 28 pixels; expected 105 x 105"),
        (image_of((105, 104)), r"has 105 x 104 pixels"),
        (image_of((105, 105), "RGB"), "of the mode RGB; expected black and white"),
        (image_of((105, 105), "L", "GIF"), "is no PNG image"),
        (b"", "is no PNG image"),
        (b"not an image", "is no PNG image"),
        (png(scribble(3))[:60], "is no PNG image, or a damaged one"),
        (png(scribble(3))[:-30] + bytes(30), "is no PNG image, or a damaged one"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is no PNG image, or a damaged one"),
        (bytes(3 << 20), "unpacks to more than 1 MiB"),
    ],
)
def test_members_that_are_no_drawings(archives: Path, content: bytes, match: str) -> None:
    rewrite(archives, {**members("background"), FIRST: content})
    assert f"{archives / 'images_background.zip'}: " in refuse(archives, match)


def test_an_image_that_would_fill_the_memory(archives: Path) -> None:
    huge = bytearray(image_of((105, 105)))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    rewrite(archives, {**members("background"), FIRST: bytes(huge)})
    refuse(archives, "is no PNG image, or a damaged one.*pixels|has 60000 x 60000")


@pytest.mark.parametrize("seed", range(40))
def test_bytes_altered_anywhere_in_an_image(archives: Path, tmp_path: Path, seed: int) -> None:
    """The zip is sound, and the image is not: it is refused, or nothing of the drawing was hit."""
    rng = np.random.default_rng(seed)
    raw = bytearray(png(scribble(3)))
    raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    rewrite(archives, {**members("background"), FIRST: bytes(raw)})
    with contextlib.suppress(InputError):
        made = prepare(archives, tmp_path / "out", size=105)
        assert np.array_equal(made.images[1, 0] > 0, scribble(3))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("split", CLASSES)
def test_truncated(archives: Path, split: str, share: float) -> None:
    path = archives / f"images_{split}.zip"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    assert str(path) in refuse(archives, "damaged or was cut short, or is no zip.*Fetch the archive anew")


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7])
def test_altered_inside(archives: Path, position: float) -> None:
    path = archives / "images_background.zip"
    raw = bytearray(path.read_bytes())
    middle = int(len(raw) * position)
    raw[middle : middle + 40] = bytes(40)
    path.write_bytes(raw)
    assert str(path) in refuse(archives, "images_background.zip: ")


def test_a_bad_crc(archives: Path) -> None:
    rewrite(archives, members("background"), method=zipfile.ZIP_STORED)
    path = archives / "images_background.zip"
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT") + 20] ^= 1
    path.write_bytes(raw)
    refuse(archives, r"damaged or was cut short.*Bad CRC-32.*images_background/")


def test_compressed_otherwise(archives: Path) -> None:
    rewrite(archives, members("background"), method=zipfile.ZIP_LZMA)
    refuse(archives, "compressed by the method 14; expected deflate")


@pytest.mark.parametrize("content", [b"plain text " * 99, b"PK\x03\x04rest"])
def test_no_archive(archives: Path, content: bytes) -> None:
    (archives / "images_evaluation.zip").write_bytes(content)
    refuse(archives, "images_evaluation.zip: this archive is damaged or was cut short, or is no zip")


def test_missing_archives_and_folders(archives: Path, tmp_path: Path) -> None:
    refuse(
        tmp_path / "nothing", "nothing: there is no such folder. Expected the folder that holds images_background.zip"
    )
    refuse(archives / "images_background.zip", "this is a file. Expected the folder")
    for split in CLASSES:
        (archives / f"images_{split}.zip").rename(tmp_path / "away")
        refuse(archives, f"there is no images_{split}.zip in this folder.*leave --from out to download")
        (tmp_path / "away").rename(archives / f"images_{split}.zip")
    with pytest.raises(InputError, match="Leave one of them out"):
        prepare(archives, tmp_path / "out", cache=tmp_path / "cache")


def test_without_a_source_both_archives_are_downloaded_and_checked(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omniglot_archives, "fetch", partial(fetch, polite=Polite(0, sleep=lambda _: None)))
    files = {f"images_{split}.zip": (archives / f"images_{split}.zip").read_bytes() for split in CLASSES}
    served = {f"good/{name}": content for name, content in files.items()}
    served |= {f"bad/{name}": content[:-1] for name, content in files.items()}
    with serve(served) as mirror:
        mirrors = [f"{mirror.url}bad", f"{mirror.url}good"]
        with pytest.raises(InputError, match=r"the MD5 is .*use --from FOLDER with a folder that holds images_backgr"):
            omniglot_archives.download(tmp_path / "cache", mirrors)  # neither is the official archive
        assert not list((tmp_path / "cache").rglob("*.zip"))
        for split in CLASSES:
            content = files[f"images_{split}.zip"]
            monkeypatch.setitem(omniglot_archives._MD5, split, hashlib.md5(content).hexdigest())
        monkeypatch.setattr(omniglot, "download", partial(omniglot_archives.download, mirrors=mirrors))
        made = prepare(None, tmp_path / "out", cache=tmp_path / "cache")
        prepare(None, tmp_path / "out", cache=tmp_path / "cache")
    assert len(made.images) == 5
    assert [source["official"] for source in made.meta["sources"]] == [True, True]
    assert mirror.requests["good/images_evaluation.zip"] == 1  # the second preparation takes it from the cache


def test_the_official_addresses_and_checksums() -> None:
    assert omniglot_archives._MD5 == {
        "background": "68d2efa1b9178cc56df9314c21c6e718",
        "evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
    }
    assert all("brendenlake/omniglot" in mirror for mirror in omniglot_archives._MIRRORS)
