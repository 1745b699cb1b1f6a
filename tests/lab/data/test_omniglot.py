import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omniglot_zips import CLASSES, drawings, members, png, scribble, write_archives, write_zip
from PIL import Image

from firstsight.errors import InputError
from firstsight.lab.data import open_corpus, text
from firstsight.lab.data.omniglot import Omniglot, holds_omniglot, open_omniglot, prepare, summary
from firstsight.lab.data.omniglot import archives as omniglot_archives
from firstsight.lab.data.omniglot import drawings as omniglot
from firstsight.lab.data.omniglot.archives import area_average
from firstsight.lab.system.manifest import DIGESTS


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
    assert sorted(path.name for path in made.folder.iterdir()) == ["digests.json", "images.npy", "meta.json"]
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
    assert not (tmp_path / "new").exists()
    averaged.clear()
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare(archives, made.folder, size=8)
    assert np.array_equal(open_omniglot(made.folder).images, made.images)  # the old one stayed
    assert len(list(made.folder.iterdir())) == 3


def test_interrupted_before_the_description(archives: Path, made: Omniglot, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(omniglot, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(archives, made.folder, size=8)
    assert np.array_equal(open_omniglot(made.folder).images, made.images)


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
    (made.folder / DIGESTS).unlink()
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
    (made.folder / DIGESTS).unlink()
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
