"""Archives with a bit turned, cut short or added to: the same files come out of them, or an error that names them."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from mirror_books import zipped

from firstsight.errors import InputError
from firstsight.lab.data.archives import entries, list_entries, named
from firstsight.lab.data.gutenberg.mirror import open_source

BOOKS = {book: f"The book {book}.\n".encode() * 3 for book in range(10, 14)}
FILES = {f"1/{book}/{book}.txt": raw for book, raw in BOOKS.items()}
TIMES = 200  # bits turned, of each kind of archive


def as_tar(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


MAKE = {
    "tar.gz": lambda files: gzip.compress(as_tar(files), mtime=1),
    "tar.bz2": lambda files: bz2.compress(as_tar(files)),
    "tar.xz": lambda files: lzma.compress(as_tar(files)),
    "tar.xz of two streams": lambda files: lzma.compress(as_tar(files)[:700]) + lzma.compress(as_tar(files)[700:]),
    "zip": zipped,
    "zip, not packed": lambda files: zipped(files, zipfile.ZIP_STORED),
    "zip, bzip2": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "zip, lzma": lambda files: zipped(files, zipfile.ZIP_LZMA),
}
PLAIN = {**MAKE, "tar": as_tar}


def contents(path: Path) -> dict[str, bytes]:
    list_entries(path)
    found = {}
    for entry in entries(path):
        if entry.kind == "file":
            with named(path), entry.open() as file:
                found[entry.name] = file.read()
    return found


def refused(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        contents(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("kind", PLAIN)
def test_what_was_put_in_comes_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    path.write_bytes(PLAIN[kind](FILES))
    assert contents(path) == FILES
    assert [(name, size) for name, size, _ in list_entries(path)] == [(n, len(c)) for n, c in FILES.items()]


@pytest.mark.parametrize("kind", MAKE)
def test_one_bit_turned_anywhere(tmp_path: Path, kind: str) -> None:
    """Through a mirror of books: each is there as it was, or named as one that cannot be read, or all are refused."""
    path, whole = tmp_path / "archive", bytearray(MAKE[kind](FILES))
    said: set[bool] = set()
    for position in random.Random(0).sample(range(8 * len(whole)), TIMES):
        whole[position // 8] ^= 1 << position % 8
        path.write_bytes(whole)
        whole[position // 8] ^= 1 << position % 8
        try:
            source = open_source(str(path))
            found = {book.book: book.raw for book in source.read(list(BOOKS))}
        except InputError as error:
            said.add(str(error).startswith(f"{path}: ") and str(error).isprintable())
        else:
            assert found == {book: raw for book, raw in BOOKS.items() if book not in source.damaged}, position
    assert said == {True}


def test_one_bit_turned_in_the_headers_of_a_plain_tar(tmp_path: Path) -> None:
    """Its contents have no checksum: what is in them cannot be told from damage."""
    path, whole = tmp_path / "archive", bytearray(as_tar(FILES))
    said: set[bool] = set()
    headers = [8 * at + bit for start in range(0, 4096, 1024) for at in range(start, start + 512) for bit in range(8)]
    for position in random.Random(0).sample(headers, TIMES):
        whole[position // 8] ^= 1 << position % 8
        path.write_bytes(whole)
        whole[position // 8] ^= 1 << position % 8
        try:
            assert contents(path) == FILES, position
        except InputError as error:
            said.add(str(error).startswith(f"{path}: "))
    assert said == {True}


@pytest.mark.parametrize("kind", PLAIN)
def test_cut_short_anywhere(tmp_path: Path, kind: str) -> None:
    raw = PLAIN[kind](FILES)
    needed = 4 * 1024 + 512 if kind == "tar" else len(raw)  # a tar's end is padded
    for length in random.Random(0).sample(range(needed), 60):
        refused(tmp_path / "archive", raw[:length])


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "tar"])
def test_something_behind_the_end(tmp_path: Path, kind: str) -> None:
    raw = PLAIN[kind](FILES)
    path = tmp_path / "archive"
    refused(path, raw + b"and more")
    refused(path, raw + b"\0\0\0\0and more")
    refused(path, raw + raw[:20])
    path.write_bytes(raw + bytes(1000))  # of tapes, and of blocks on a disk
    assert contents(path) == FILES
    if kind != "tar":
        pack = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[kind]
        refused(path, pack(as_tar(FILES) + b"more"))


def test_zeros_without_end_behind_a_tar(tmp_path: Path) -> None:
    raw = gzip.compress(as_tar(FILES) + bytes(65 << 20), 1)
    assert "something follows behind its end" in refused(tmp_path / "archive", raw)


def test_a_directory_that_lost_an_entry(tmp_path: Path) -> None:
    """One bit of a comment's length swallows the next entry, where that has as many bytes; zipfile does not count."""
    raw = bytearray(zipped({"a" * 18: b"one", "b" * 18: b"two", "c": b"three"}))
    assert raw.count(b"PK\1\2") == 3
    at = raw.index(b"PK\1\2")
    raw[at + 32] ^= 64  # the comment of the first is the second
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as archive:
        assert len(archive.namelist()) == 2
    assert "its directory has 2 entries instead of 3" in refused(tmp_path / "archive", bytes(raw))


def test_more_in_it_than_there_can_be(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(gzip.compress(as_tar({"a\x1b[31m": b"", "b": bytes(50 << 20)}), 1))
    with pytest.raises(InputError, match=rf"{path}: the files in this archive have more than 1,000 bytes in all"):
        list_entries(path, 1000)
    assert len(list_entries(path, 50 << 20)) == 2


def pax(record: str) -> bytes:
    """A header of a header that says ``record`` of the file behind it."""
    body = record.encode()
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, len(body)
    return entry.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")


def test_headers_that_lead_around_in_a_circle_or_promise_gigabytes(tmp_path: Path) -> None:
    refused(tmp_path / "archive", pax("15 size=-51200\n") + as_tar(FILES))
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 32
    assert "promises" in refused(tmp_path / "archive", entry.tobuf(tarfile.USTAR_FORMAT) + as_tar(FILES))


def test_what_is_no_archive(tmp_path: Path) -> None:
    assert "is empty" in refused(tmp_path / "archive", b"")
    refused(tmp_path / "archive", b"plain text" * 500)
    refused(tmp_path / "archive", lzma.compress(as_tar(FILES), lzma.FORMAT_ALONE))  # which has no checksum
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=f"{path}: this is a"):
            list_entries(path)


def test_an_archive_without_checksums_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "archive"
    for raw, said in ((as_tar(FILES), True), (lzma.compress(as_tar(FILES), check=lzma.CHECK_NONE), True)):
        path.write_bytes(raw)
        list_entries(path)
        assert ("no checksums of its content" in capsys.readouterr().err) == said
    path.write_bytes(lzma.compress(as_tar(FILES)))
    list_entries(path)
    assert capsys.readouterr().err == ""


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    raw = zipped({"\x1b[2J\u202e\x9b.txt": b"", "b": b""}).replace(b"PK\3\4", b"PK\3\5", 1)
    assert "\\x1b[2J\\u202e\\x9b" in refused(tmp_path / "archive", raw)


def test_a_link_in_a_zip_is_named_where_a_book_should_be(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in FILES.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if "11" in name else 0o100644) << 16
            archive.writestr(info, raw)
    source = open_source(str(path))
    assert sorted(book.book for book in source.read(list(BOOKS))) == [10, 12, 13]
    assert source.damaged == {11: "11.txt: a link, which is not followed"}
