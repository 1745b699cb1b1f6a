"""Books out of a Project Gutenberg mirror: an address, a folder, or an archive of one, which is never unpacked."""

import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from firstsight.errors import InputError
from firstsight.lab.data.gutenberg.source import MAX_BYTES, VARIANTS, DamagedError, Found, Source, folder_of, unpack
from firstsight.lab.data.gutenberg.web import WebSource

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, struct.error),
    *(RuntimeError, ValueError),  # an encrypted zip, and nonsense in headers
)


def open_source(source: str, cache: Path | None = None) -> Source:
    """The books at ``source``.

    Args:
        source: an address (http, https), a folder, or a .tar, .tar.xz, .tar.gz, .tar.bz2 or .zip archive, laid out
            like a mirror: book 10268 is 1/0/2/6/10268/10268.txt, or one of the other ``VARIANTS``. In a folder or an
            archive the layout may lie at any depth.
        cache: where downloaded books are kept, a folder for each mirror; by default in the user's cache folder.

    """
    if source.startswith(("http://", "https://")):
        return WebSource(source, cache)
    if "://" in source:
        raise InputError(f"{source}: expected http:// or https://, a folder, or an archive of a mirror.")
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source}: there is no such file. Expected {_WANTED}.")
    if path.is_dir():
        return _Folder(path)
    with open(path, "rb") as probe:
        magic = probe.read(2)
    if not magic:
        raise InputError(f"{source}: this file is empty. Expected {_WANTED}: fetch it anew.")
    return _Zip(path) if magic == b"PK" else _Tar(path)


_WANTED = "the address, a folder or a .tar.xz, .tar.gz or .zip archive of a Project Gutenberg mirror"


class _Local(Source):
    """A source whose paths are all known beforehand: ``self._paths[book][file name]``."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._paths: dict[int, dict[str, str]] = defaultdict(dict)
        with self._reading():
            self._sizes = dict(self._entries_and_sizes())
        for name in sorted(self._sizes):
            self._add(name)
        if not self._paths:
            raise InputError(
                f"{path}: there is no book in it that lies as on a mirror. Expected files like "
                "1/0/2/6/10268/10268.txt (or 10268-8.txt, 10268-0.txt, or one of them as .zip), at any depth."
            )

    def books(self) -> list[int]:
        return sorted(book for book in self._paths if folder_of(book).startswith("1/"))

    def size(self, book: int) -> int | None:
        paths = self._by_preference(book)
        return self._sizes[paths[0]] if paths else None

    def _by_preference(self, book: int) -> list[str]:
        have = self._paths.get(book, {})
        return [have[f"{book}{variant}"] for variant in VARIANTS if f"{book}{variant}" in have]

    @abstractmethod
    def _entries_and_sizes(self) -> Iterable[tuple[str, int]]:
        """The paths of all plain files, between slashes, and their bytes."""

    def _add(self, path: str) -> None:
        *folders, name = path.split("/")
        book = folders[-1] if folders else ""
        if not (book.isascii() and book.isdecimal() and name.startswith(book) and name[len(book) :] in VARIANTS):
            return
        expected = folder_of(int(book)).split("/")
        if folders[-len(expected) :] == expected:
            self._paths[int(book)].setdefault(name, path)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except _DAMAGE as error:
            raise InputError(
                f"{self.name}: this archive is damaged or was cut short ({error}), or it is none. Expected a whole "
                ".tar, .tar.xz, .tar.gz, .tar.bz2 or .zip: fetch it anew."
            ) from error


class _Folder(_Local):
    def _entries_and_sizes(self) -> Iterable[tuple[str, int]]:
        for folder, _, names in os.walk(self.name):
            place = Path(folder).relative_to(self.name).as_posix()
            paths = [(f"{place}/{name}", Path(folder) / name) for name in names]
            yield from ((name, path.stat().st_size) for name, path in paths if path.is_file())

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        path = self._paths.get(book, {}).get(name)
        if path is None:
            return None
        full = Path(self.name) / path
        with open(full, "rb") as file:
            return str(full), file.read(MAX_BYTES + 1)


class _Zip(_Local):
    def _entries_and_sizes(self) -> Iterable[tuple[str, int]]:
        with zipfile.ZipFile(self.name) as archive:
            plain = [info for info in archive.infolist() if not stat.S_ISLNK(info.external_attr >> 16)]
            return [(info.filename, info.file_size) for info in plain]

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        path = self._paths.get(book, {}).get(name)
        if path is None:
            return None
        with self._reading(), zipfile.ZipFile(self.name) as archive, archive.open(path) as file:
            return f"{self.name}:{path}", file.read(MAX_BYTES + 1)


class _Tar(_Local):
    """Read in the order of the archive, since going back means to decompress from the beginning."""

    def _entries_and_sizes(self) -> Iterable[tuple[str, int]]:
        return [(name, size) for name, size, _ in self._entries()]

    def read(self, books: Sequence[int]) -> Iterator[Found]:
        wanted = {book: self._by_preference(book) for book in dict.fromkeys(books) if book in self._paths}
        reasons: dict[int, list[str]] = defaultdict(list)
        while wanted:  # a further pass only for books whose preferred variant is damaged
            books_by_path = {paths[0]: book for book, paths in wanted.items()}
            for path, raw in self._contents(books_by_path):
                book = books_by_path[path]
                try:
                    found = unpack(book, f"{self.name}:{path}", raw)
                except DamagedError as error:
                    reasons[book].append(f"{path.rpartition('/')[2]}: {error}")
                    wanted[book].pop(0)
                    continue
                del wanted[book]
                yield found
            for book in [book for book, paths in wanted.items() if not paths]:
                self._note(book, reasons[book])
                del wanted[book]

    def _contents(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The path and the bytes of each of the files; of two with one path the first."""
        left = set(paths)
        entries = self._entries()
        while left:
            with self._reading():
                path, _, read = next(entries)  # all are there: the listing has just seen them
                raw = read() if path in left else b""
            if path in left:
                left.remove(path)
                yield path, raw

    def _entries(self) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
        """Path, size and contents of each plain file; links of both kinds are not looked at."""
        with tarfile.open(self.name, tarinfo=_Strict) as archive:
            for entry in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # or it keeps a note of every file of a whole mirror
                if entry.isfile():
                    yield entry.name, entry.size, partial(_contents, archive, entry)


def _contents(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None  # isfile() holds
    return file.read(MAX_BYTES + 1)


class _Strict(tarfile.TarInfo):
    """tarfile takes a damaged header, or none, for the end of the archive: books would be missing without a word."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the mark of the end
                raise
            raise tarfile.ReadError(str(error)) from error
