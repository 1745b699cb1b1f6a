"""Books out of a Project Gutenberg mirror: an address, a folder, or an archive of one, which is never unpacked."""

import os
import zipfile
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from firstsight.errors import InputError
from firstsight.lab.data.archives import entries, list_entries, named
from firstsight.lab.data.gutenberg.source import MAX_BYTES, VARIANTS, DamagedError, Found, Source, folder_of, unpack
from firstsight.lab.data.gutenberg.web import WebSource
from firstsight.lab.system.files import regular_file


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
    with open(regular_file(path, "an archive of a mirror"), "rb") as probe:
        return _Zip(path) if probe.read(2) == b"PK" else _Tar(path)


_WANTED = "the address, a folder or a .tar.xz, .tar.gz or .zip archive of a Project Gutenberg mirror"


class _Local(Source):
    """A source whose paths are all known beforehand: ``self._paths[book][file name]``."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._paths: dict[int, dict[str, str]] = defaultdict(dict)
        self._sizes: dict[str, int] = {}
        self._links: dict[int, list[str]] = defaultdict(list)
        for name, size, kind in sorted(self._list()):
            self._add(name, size, kind)
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
    def _list(self) -> Iterable[tuple[str, int, str]]:
        """Path between slashes, bytes and kind of all that there is."""

    def _add(self, path: str, size: int, kind: str) -> None:
        *folders, name = path.split("/")
        name = name.lower()  # as texts are called on disks that know no other letters
        book = folders[-1] if folders else ""
        if not (book.isascii() and book.isdecimal() and name.startswith(book) and name[len(book) :] in VARIANTS):
            return
        expected = folder_of(int(book)).split("/")
        if folders[-len(expected) :] != expected:
            return
        if kind == "file":
            self._sizes[self._paths[int(book)].setdefault(name, path)] = size
        elif kind == "link":
            self._links[int(book)].append(name)

    def _reasons(self, book: int) -> list[str]:
        return [f"{name}: a link, which is not followed" for name in self._links.get(book, [])]


class _Folder(_Local):
    def _list(self) -> Iterable[tuple[str, int, str]]:
        for folder, _, names in os.walk(self.name):
            place = Path(folder).relative_to(self.name).as_posix()
            paths = [(f"{place}/{name}", Path(folder) / name) for name in names]
            yield from ((name, path.stat().st_size, "file") for name, path in paths if path.is_file())

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        path = self._paths.get(book, {}).get(name)
        if path is None:
            return None
        full = Path(self.name) / path
        with open(full, "rb") as file:
            return str(full), file.read(MAX_BYTES + 1)


class _Zip(_Local):
    def _list(self) -> Iterable[tuple[str, int, str]]:
        return list_entries(self.name)

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        path = self._paths.get(book, {}).get(name)
        if path is None:
            return None
        with named(self.name), zipfile.ZipFile(self.name) as archive, archive.open(path) as file:
            return f"{self.name}:{path}", file.read(MAX_BYTES + 1)


class _Tar(_Local):
    """Read in the order of the archive, since going back means to decompress from the beginning."""

    def _list(self) -> Iterable[tuple[str, int, str]]:
        return list_entries(self.name)

    def read(self, books: Sequence[int]) -> Iterator[Found]:
        asked = dict.fromkeys(books)
        wanted = {book: self._by_preference(book) for book in asked if book in self._paths}
        reasons = {book: self._reasons(book) for book in asked}
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
                self._passed_over(found, reasons.pop(book))
                yield found
            for book in [book for book, paths in wanted.items() if not paths]:
                del wanted[book]
        for book, why in reasons.items():
            self._note(book, why)

    def _contents(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The path and the bytes of each of the files; of two with one path the first."""
        left = set(paths)
        with closing(entries(self.name)) as stream:
            for entry in stream:
                if entry.name in left and entry.kind == "file":
                    left.remove(entry.name)
                    with named(self.name), entry.open() as file:
                        raw = file.read(MAX_BYTES + 1)
                    yield entry.name, raw
                if not left:
                    return
