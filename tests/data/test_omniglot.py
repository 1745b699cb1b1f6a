import contextlib
import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mirror_server import serve
from omniglot_zips import CLASSES, drawings, members, png, scribble, write_archives, write_zip
from PIL import Image

from engram.data import omniglot, omniglot_archives, open_corpus, text
from engram.data.download import Polite, fetch
from engram.data.omniglot import Omniglot, holds_omniglot, open_omniglot, prepare, summary
from engram.data.omniglot_archives import area_average
from engram.errors import InputError

FIRST = "images_background/Greek/character01/0394_01.png"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shared" not in request.keywords:
        for split, number in CLASSES.items():
            monkeypatch.setitem(omniglot_archives.CLASSES, split, number)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return write_archives(tmp_path / "archives")


@pytest.fixture
def made(archives: Path, tmp_path: Path) -> Omniglot:
    return prepare(archives, tmp_path / "made")


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


def test_every_drawing_in_its_place(archives: Path, tmp_path: Path) -> None:
    made = prepare(archives, tmp_path / "made", size=105)
    names = ["Braille_(6)/character01", "Greek/character01", "Greek/character02"]
    assert made.names == (*names, "N_Ko/character01", "N_Ko/character02")
    assert (made.background, made.evaluation) == (3, 2)
    assert made.images.shape == (5, 20, 105, 105)
    found = {**drawings("background"), **drawings("evaluation")}
    for index, name in enumerate(made.names):
        of_class = sorted(member for member in found if f"/{name}/" in member)
        for drawer, member in enumerate(of_class):
            assert np.array_equal(made.images[index, drawer], 255 * found[member].astype(np.uint8)), member
    assert np.array_equal(made.test, made.images[:, :5])
    assert np.array_equal(made.train, made.images[:, 5:])


@pytest.mark.parametrize("size", [8, 28, 35, 52, 105])
def test_the_average_over_the_area(size: int) -> None:
    ink = np.stack([scribble(seed) for seed in range(2)])
    # By another way: every pixel drawn becomes size x size small ones, and 105 x 105 of those a new pixel.
    fine = ink.repeat(size, axis=1).repeat(size, axis=2).reshape(2, size, 105, size, 105)
    expected = np.floor(255 * fine.mean((2, 4)) + 0.5)
    assert np.array_equal(area_average(ink, size), expected)


def test_the_size(made: Omniglot, archives: Path, tmp_path: Path) -> None:
    assert made.images.shape == (5, 20, 28, 28)
    assert made.images.max() > 200
    assert prepare(archives, tmp_path / "small", size=8).images.shape == (5, 20, 8, 8)
    for size in (7, 106, 0, -3):
        with pytest.raises(InputError, match=f"size is {size}; expected 8 to 105"):
            prepare(archives, tmp_path / "none", size=size)


def test_opened_again(made: Omniglot) -> None:
    opened = open_omniglot(made.folder)
    assert np.array_equal(opened.images, made.images)
    assert opened.names == made.names
    assert opened.images.dtype == np.uint8
    assert isinstance(opened.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened.images[0] = 1
    assert sorted(path.name for path in made.folder.iterdir()) == ["images.npy", "meta.json"]
    assert np.array_equal(np.load(made.folder / "images.npy"), made.images)  # without the package
    found = summary(opened)
    assert (found["classes"], found["drawings"]) == (CLASSES, 100)
    assert found["alphabets"] == {"background": 2, "evaluation": 1}
    assert len(found["sources"][0]["sha256"]) == 64


def test_the_same_bytes_each_time(made: Omniglot, archives: Path) -> None:
    before = (made.folder / "images.npy").read_bytes()
    prepare(archives, made.folder)
    assert (made.folder / "images.npy").read_bytes() == before


def test_zipped_anew_or_official(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    md5 = {split: hashlib.md5((archives / f"images_{split}.zip").read_bytes()).hexdigest() for split in CLASSES}
    assert [source["official"] for source in prepare(archives, tmp_path / "a").meta["sources"]] == [False, False]
    said = capfd.readouterr().err
    for split, found in md5.items():
        assert f"images_{split}.zip: the MD5 is {found}, and {omniglot_archives._MD5[split]} that of" in said
    for split, found in md5.items():
        monkeypatch.setitem(omniglot_archives._MD5, split, found)
    assert [source["official"] for source in prepare(archives, tmp_path / "b").meta["sources"]] == [True, True]
    assert capfd.readouterr().err == ""


def test_folders_and_what_desktops_leave_are_no_members(archives: Path, made: Omniglot, tmp_path: Path) -> None:
    folders = ["images_background/", "images_background/Greek/", "images_background/Greek/character01/"]
    left = ["__MACOSX/images_background/._Greek", "images_background/.DS_Store", "images_background/Greek/Thumbs.db"]
    rewrite(archives, {**dict.fromkeys([*folders, *left], b""), **members("background")})
    assert np.array_equal(prepare(archives, tmp_path / "out").images, made.images)


def test_other_ways_to_zip_and_to_store(archives: Path, made: Omniglot, tmp_path: Path) -> None:
    rewrite(archives, members("background"), method=zipfile.ZIP_STORED)
    gray = {member: png(ink, "L") for member, ink in drawings("evaluation").items()}
    rewrite(archives, gray, "evaluation")
    (tmp_path / "deep").mkdir()
    archives = archives.rename(tmp_path / "deep" / "archives")  # found at any depth
    assert np.array_equal(prepare(tmp_path / "deep", tmp_path / "out").images, made.images)


def test_nothing_is_unpacked(archives: Path, made: Omniglot, tmp_path: Path) -> None:
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "made"]


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted(
    archives: Path, made: Omniglot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    averaged = []

    def stop(ink, size):
        averaged.append(size)
        if len(averaged) == 3:
            raise error
        return area_average(ink, size)

    monkeypatch.setattr(omniglot, "area_average", stop)
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare(archives, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    averaged.clear()
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare(archives, made.folder, size=8)
    assert np.array_equal(open_omniglot(made.folder).images, made.images)  # the old one stayed
    assert len(list(made.folder.iterdir())) == 2


def test_interrupted_before_the_description(archives: Path, made: Omniglot, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(omniglot, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(archives, made.folder, size=8)
    with pytest.raises(InputError, match=r"unfinished.*Run engram data omniglot again"):
        open_omniglot(made.folder)


@pytest.mark.parametrize("change", [-1, -4000, 1])
def test_cut_short_or_added_to(made: Omniglot, change: int) -> None:
    path = made.folder / "images.npy"
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + bytes(change))
    with pytest.raises(InputError, match=rf"promises {len(raw):,} bytes, and the file has {len(raw) + change:,}"):
        open_omniglot(made.folder)


@pytest.mark.parametrize("position", [0, 8, 60, 128, 40_000, -1])
def test_altered_on_the_disk(made: Omniglot, position: int) -> None:
    path = made.folder / "images.npy"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)
    with pytest.raises(InputError, match="do not fit the checksum"):
        open_omniglot(made.folder)


def changed(key: str, value: object) -> Callable[[dict], object]:
    return lambda meta: meta.update({key: value})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (changed("version", 2), "version 2 of the format.*reads version 1"),
        (changed("complete", False), "does not describe finished drawings"),
        (changed("corpus", "wikitext-2"), "this data folder holds wikitext-2. Expected drawings"),
        (changed("corpus", None), "damaged, or was written for other drawings"),
        (changed("size", 27), "contradict each other"),
        (changed("size", "28"), "contradict each other|TypeError"),
        (changed("classes", {"background": 964, "evaluation": 659}), "contradict each other"),
        (changed("images", None), "does not describe the array"),
        (changed("images", {}), "KeyError"),
        (changed("alphabets", {"background": []}), "AttributeError"),
        (changed("alphabets", {"background": {"Greek": 3}}), "TypeError"),
        (lambda meta: meta["images"].update(sha256="0" * 64), "do not fit the checksum"),
        (lambda meta: meta["images"].update(bytes="many"), "ValueError"),
        (lambda meta: meta["alphabets"]["background"]["Greek"].pop(), "contradict each other"),
    ],
)
def test_a_damaged_description(made: Omniglot, change: Callable[[dict], object], match: str) -> None:
    path = made.folder / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=match):
        open_omniglot(made.folder)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"null"])
def test_no_description(made: Omniglot, content: bytes) -> None:
    (made.folder / "meta.json").write_bytes(content)
    with pytest.raises(InputError, match=r"meta\.json"):
        open_omniglot(made.folder)


def test_files_of_two_preparations(made: Omniglot, archives: Path, tmp_path: Path) -> None:
    other = prepare(archives, tmp_path / "other", size=30)
    meta = json.loads((made.folder / "meta.json").read_text())
    meta["images"] |= {name: other.meta["images"][name] for name in ("bytes", "sha256")}
    (made.folder / "meta.json").write_text(json.dumps(meta))
    shutil.copy(other.folder / "images.npy", made.folder / "images.npy")
    with pytest.raises(InputError, match=r"the array is uint8 \[5, 20, 30, 30\]"):
        open_omniglot(made.folder)


def test_missing_files(made: Omniglot, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        open_omniglot(tmp_path / "none")
    (made.folder / "images.npy").unlink()
    with pytest.raises(InputError, match="it should hold the drawings"):
        open_omniglot(made.folder)


def test_text_and_drawings_do_not_pass_for_each_other(made: Omniglot, archives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds the drawings of Omniglot, and text is needed here"):
        open_corpus(made.folder)
    assert holds_omniglot(made.folder)
    (tmp_path / "mine.txt").write_text("a line of words\n" * 40)
    text.prepare(tmp_path / "mine.txt", made.folder)  # takes the folder over
    assert not holds_omniglot(made.folder)
    assert not (made.folder / "images.npy").exists()
    with pytest.raises(InputError, match=r"holds text\. Expected drawings"):
        open_omniglot(made.folder)
    prepare(archives, made.folder)
    assert holds_omniglot(made.folder)
    assert not holds_omniglot(tmp_path / "none")


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


@pytest.mark.shared
def test_the_real_archives(shared_data: Path, tmp_path: Path) -> None:
    made = prepare(shared_data / "omniglot", tmp_path / "out")
    found = summary(open_omniglot(tmp_path / "out"))
    assert found["classes"] == {"background": 964, "evaluation": 659}
    assert found["drawings"] == 32_460
    assert found["alphabets"] == {"background": 30, "evaluation": 20}
    assert made.images.shape == (1623, 20, 28, 28)
    assert len(set(made.names)) == 1623
    assert (made.names[0], made.names[963]) == ("Alphabet_of_the_Magi/character01", "Tifinagh/character55")
    assert (made.names[964], made.names[1622]) == ("Angelic/character01", "ULOG/character26")
    for split, index, drawer in (("background", 0, 1), ("background", 963, 20), ("evaluation", 964, 7)):
        with zipfile.ZipFile(shared_data / "omniglot" / f"images_{split}.zip") as archive:
            folder, ending = f"images_{split}/{made.names[index]}/", f"_{drawer:02}.png"
            (member,) = [name for name in archive.namelist() if name.startswith(folder) and name.endswith(ending)]
            with Image.open(io.BytesIO(archive.read(member))) as image:
                ink = ~np.asarray(image)
        # Rows of 105 / 28 = 3.75 pixels: the first pixel is 3 rows and three quarters of the fourth, each way.
        part = np.array([1, 1, 1, 0.75])
        corner = 255 * part @ ink[:4, :4] @ part / 3.75**2
        assert abs(made.images[index, drawer - 1, 0, 0] - corner) <= 0.5
        middle = 255 * np.array([0.5, 1, 1, 1, 0.25]) @ ink[52:57, 52:57] @ np.array([0.5, 1, 1, 1, 0.25]) / 3.75**2
        assert abs(made.images[index, drawer - 1, 14, 14] - middle) <= 0.5
        assert abs(made.images[index, drawer - 1].mean() - 255 * ink.mean()) < 0.5
