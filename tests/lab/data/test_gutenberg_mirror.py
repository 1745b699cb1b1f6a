import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mirror_books import ASKED, EXPECTED, FILES, UNDER_1, contents, text, zipped

from firstsight import InputError
from firstsight.lab.data.gutenberg import source
from firstsight.lab.data.gutenberg.book_ids import LISTED, PAPER_BOOKS, PAPER_TOKENS
from firstsight.lab.data.gutenberg.mirror import open_source
from firstsight.lab.data.gutenberg.source import VARIANTS, folder_of


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    return path


def as_tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def as_plain_tar(path: Path, files: dict[str, bytes]) -> Path:
    return as_tar(path, files, "w")


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(zipped(files))
    return path


PACKS = [as_folder, as_tar, as_plain_tar, as_zip]
Pack = Callable[[Path, dict[str, bytes]], Path]


@pytest.mark.parametrize("prefix", ["", "mirror-valid/", "a/1/0/"])
@pytest.mark.parametrize("pack", PACKS)
def test_every_kind_of_source(tmp_path: Path, pack: Pack, prefix: str) -> None:
    books = open_source(str(pack(tmp_path / "source", {prefix + name: raw for name, raw in FILES.items()})))
    assert books.books() == UNDER_1
    assert contents(books.read(ASKED)) == EXPECTED
    assert books.damaged == {10500: "10500.zip: a zip with a member that leads outside, '../10500.txt'"}
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("here", range(len(VARIANTS)))
def test_the_order_of_preference(tmp_path: Path, here: int) -> None:
    files = {}
    for variant in VARIANTS[here:]:
        stem = f"11{variant.removesuffix('.txt').removesuffix('.zip')}"
        raw = f"the text of 11{variant}".encode()
        files[f"1/11/11{variant}"] = zipped({f"{stem}.txt": raw}) if variant.endswith("zip") else raw
    for number, pack in enumerate(PACKS):
        (found,) = open_source(str(pack(tmp_path / str(number), files))).read([11])
        assert found.raw == f"the text of 11{VARIANTS[here]}".encode()
        assert found.source.endswith(f"1/11/11{VARIANTS[here]}")
        assert found.name.endswith(".txt")


@pytest.mark.parametrize("pack", PACKS)
def test_damaged_variants_fall_through(tmp_path: Path, pack: Pack) -> None:
    files = {
        "1/11/11.zip": b"nothing of the kind",
        "1/11/11-8.zip": zipped({"other.txt": b""}),
        "1/11/11-0.zip": zipped({"11-0.txt": b"good"}),
        "1/12/12.zip": b"",
        "1/13/13.txt": b"fine",
    }
    books = open_source(str(pack(tmp_path / "source", files)))
    assert contents(books.read([11, 12, 13])) == {11: ("11-0.txt", b"good"), 13: ("13.txt", b"fine")}
    assert books.damaged == {12: "12.zip: a damaged zip (File is not a zip file)"}


def test_order_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_source(str(as_folder(tmp_path / "folder", FILES)))
    assert [found.book for found in folder.read(ASKED)] == [10269, 2609, 101, 5, 10268, 10]
    tar = open_source(str(as_tar(tmp_path / "tar", FILES)))
    assert [found.book for found in tar.read(ASKED)] == [10268, 10269, 10, 5, 2609, 101]  # 101 in a second pass
    assert list(tar.read([])) == []
    monkeypatch.setattr(source, "MAX_BYTES", 2999)
    assert contents(folder.read([10268])) == {}
    assert folder.damaged[10268].startswith("10268.txt: larger than")


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"1/1{int(kind)}/1{int(kind)}.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("1/19/19.txt")
        archive.addfile(member)
    assert open_source(str(tmp_path / "x.tar")).books() == [19]


@pytest.mark.parametrize("pack", [as_tar, as_plain_tar, as_zip, lambda path, files: as_tar(path, files, "w:gz")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_truncated(tmp_path: Path, pack: Pack, share: float) -> None:
    path = pack(tmp_path / "source", {f"1/{i}/{i}.txt": text(i) for i in range(10, 20)})
    raw = path.read_bytes().rstrip(b"\0") if pack is as_plain_tar else path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match=r"damaged or was cut short") as caught:
        list(open_source(str(path)).read(range(10, 20)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", ["cut between two files", "a damaged header"])
def test_a_tar_that_ends_early_without_an_error_of_tarfile(tmp_path: Path, harm: str) -> None:
    path = as_plain_tar(tmp_path / "x.tar", {f"1/{i}/{i}.txt": bytes(512) for i in range(10, 20)})
    raw = bytearray(path.read_bytes())
    if harm == "a damaged header":
        raw[5 * 1024 + 150] ^= 1  # in the checksum of a header
    path.write_bytes(raw if harm == "a damaged header" else raw[: 5 * 1024])
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 5  # and no error
    with pytest.raises(InputError, match="damaged or was cut short"):
        open_source(str(path))


def test_a_source_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"plain text " * 99)
    (tmp_path / "pk").write_bytes(b"PK nothing")
    as_folder(tmp_path / "flat", {"10268.txt": b"x", "1/0/2/7/10268/10268.txt": b"in another's folder"})
    for given_source, said in {
        "nothing": "there is no such file",
        "empty": "this file is empty",
        "text": "damaged or was cut short",
        "pk": "damaged or was cut short",
        "flat": "1/0/2/6/10268/10268.txt",
    }.items():
        with pytest.raises(InputError, match=said):
            open_source(str(tmp_path / given_source))
    with pytest.raises(InputError, match="expected http:// or https://"):
        open_source("rsync://aleph.gutenberg.org/gutenberg")


# The lists of the paper, and real books


def test_folders() -> None:
    examples = {10268: "1/0/2/6/10268", 10: "1/10", 101: "1/0/101", 5: "0/5"}
    assert {book: folder_of(book) for book in examples} == examples


def test_the_lists() -> None:
    assert {split: len(books) for split, books in LISTED.items()} == {"train": 969, "valid": 12, "test": 13}
    assert len({book for books in LISTED.values() for book in books}) == 969 + 12 + 13
    assert PAPER_TOKENS == {"train": 175_181_505, "valid": 609_545, "test": 526_646}
    assert sum(PAPER_BOOKS.values()) == 2042
    assert [book for books in LISTED.values() for book in books if not folder_of(book).startswith("1/")] == [2609]


@pytest.mark.shared
def test_the_lists_are_the_appendix(shared_data: Path) -> None:
    appendix = (shared_data.parent / "paper" / "appendix.txt").read_text(encoding="utf-8")
    appendix = appendix.replace("Fast Parametric Learning with Activation Memorization", "")
    for split, title in {"test": "Test", "valid": "Validation", "train": "Train"}.items():
        head = re.escape(f"{title} ({PAPER_BOOKS[split]} books, {PAPER_TOKENS[split]:,} tokens)")
        (found,) = re.findall(rf"^{head}:?\s+((?:\d+,?\s+)+)", appendix, re.MULTILINE)
        assert tuple(int(book) for book in found.replace(",", " ").split()) == LISTED[split]


@pytest.mark.shared
def test_the_validation_books(shared_data: Path) -> None:
    books = open_source(str(shared_data / "gutenberg" / "mirror-valid.tar.xz"))
    found = {book.book: book for book in books.read([*LISTED["valid"], *LISTED["test"]])}
    assert sorted(found) == sorted(LISTED["valid"]) == books.books()
    assert {book.name for book in found.values()} == {f"{book}.txt" for book in found if book != 11804} | {
        "11804-8.txt"
    }
    assert all(b"Gutenberg" in book.raw for book in found.values())
    assert books.damaged == {}


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le"])
def test_a_book_in_utf_16_is_named(tmp_path: Path, pack: Pack, encoding: str) -> None:
    """The paper's script would drop no byte of it, and part all letters by NULs."""
    raw = "A book.\n".encode(encoding)
    files = {"1/11/11.txt": raw, "1/12/12.zip": zipped({"12.txt": raw}), "1/13/13.txt": b"fine"}
    books = open_source(str(pack(tmp_path / "source", files)))
    assert contents(books.read([11, 12, 13])) == {13: ("13.txt", b"fine")}
    assert sorted(books.damaged) == [11, 12]
    kind = encoding.upper().replace("-BE", "BE").replace("-LE", "LE")
    assert books.damaged[12] == f"12.zip: it looks like {kind}: convert it, for example with iconv -f {kind} -t UTF-8"


@pytest.mark.parametrize("pack", PACKS)
def test_another_variant_than_the_first_is_said(tmp_path: Path, pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    broken = bytearray(zipped({"11.txt": b"with an e" * 9}))
    broken[40] ^= 1
    files = {"1/11/11.zip": bytes(broken), "1/11/11-8.zip": zipped({"11-8.txt": b"with an \xe9"}), "1/12/12.txt": b"12"}
    source = pack(tmp_path / "source", files)
    assert contents(open_source(str(source)).read([11, 12]))[11] == ("11-8.txt", b"with an \xe9")
    said = " ".join(capsys.readouterr().err.split())
    assert f"{source}: book 11 is read from 11-8.txt, since of others 11.zip: a damaged zip (" in said
    assert "book 12" not in said


@pytest.mark.parametrize("pack", PACKS)
def test_large_letters_in_the_names_of_books(tmp_path: Path, pack: Pack) -> None:
    files = {"1/11/11.TXT": b"eleven", "1/12/12-8.ZIP": zipped({"12-8.TXT": b"twelve"})}
    books = open_source(str(pack(tmp_path / "source", files)))
    assert {found.book: found.raw for found in books.read([11, 12])} == {11: b"eleven", 12: b"twelve"}


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: this is a"):
            open_source(str(path))
