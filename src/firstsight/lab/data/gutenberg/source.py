"""What the places that books come from have in common: the layout of a mirror, its variants, its zips."""

import io
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from firstsight.lab.data.lines import encoding_of
from firstsight.lab.system.progress import say

VARIANTS = (".txt", "-8.txt", "-0.txt", ".zip", "-8.zip", "-0.zip")
"""File names of a book after its id, the preferred one first: ASCII, Latin-1, UTF-8, and the three zipped."""

MAX_BYTES = 64 << 20
"""A larger text is none: the Bible has 4 MB, and a zip can be made to unpack to terabytes."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)


class DamagedError(Exception):
    """One file of a book is of no use; the message says why."""


@dataclass(frozen=True)
class Found:
    """A book as a source has it.

    Attributes:
        book: its id.
        name: the name of the text, "10268-8.txt", also where it came out of a zip.
        raw: the bytes of the text.
        source: path or address of the file, which ends with .zip for a zipped text.
    """

    book: int
    name: str
    raw: bytes
    source: str


def folder_of(book: int) -> str:
    """The folder of a book on a mirror: "1/0/2/6/10268", "1/10", "0/5"."""
    return "/".join([*(str(book)[:-1] or "0"), str(book)])


class Source(ABC):
    """A place that has books.

    Attributes:
        name: what was given: an address, or a path.
        damaged: why each book that was asked for and is there in no usable variant is not usable.
    """

    remote = False
    """Books come one by one, in the order asked for, and asking for one costs a request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.damaged: dict[int, str] = {}

    @abstractmethod
    def books(self) -> list[int]:
        """The ids of the books under the folder 1, ascending."""

    def size(self, book: int) -> int | None:
        """Bytes of the file that ``read`` takes; ``None`` where there is none, or only a request would tell."""
        return None

    def read(self, books: Sequence[int]) -> Iterator[Found]:
        """Yield the books that are there, each once and in its preferred variant, one in memory at a time."""
        for book in dict.fromkeys(books):
            reasons = self._reasons(book)
            for variant in VARIANTS:
                try:
                    if got := self._file(book, f"{book}{variant}"):
                        found = unpack(book, *got)
                        break
                except DamagedError as error:
                    reasons.append(f"{book}{variant}: {error}")
            else:
                self._note(book, reasons)
                continue
            self._passed_over(found, reasons)
            yield found

    def _reasons(self, book: int) -> list[str]:
        """Why files of a book that are there cannot be read, as far as that is known before they are opened."""
        return []

    def _note(self, book: int, reasons: list[str]) -> None:
        if reasons:
            self.damaged[book] = "; ".join(reasons)

    def _passed_over(self, found: Found, reasons: list[str]) -> None:
        """Another variant of a book has other letters, so it is said where one was taken for want of the first."""
        if reasons:
            say(f"{self.name}: book {found.book} is read from {found.name}, since of others {'; '.join(reasons)}")

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        """Path or address of one file of a book, and its bytes; None where there is no such file."""
        raise NotImplementedError


def unpack(book: int, path: str, raw: bytes) -> Found:
    """The book in one file of it.

    A ``DamagedError`` past ``MAX_BYTES``, where ``unzip`` refuses, and for UTF-16 and UTF-32, whose letters the paper's
    script would part by NULs.
    """
    file = PurePosixPath(path)
    if len(raw) > MAX_BYTES:
        raise DamagedError(f"larger than {MAX_BYTES >> 20} MiB")
    name = file.name
    if file.suffix.lower() == ".zip":
        name = f"{file.stem}.txt"
        raw = unzip(raw, name)
    if kind := encoding_of(raw):
        raise DamagedError(f"it looks like {kind}: convert it, for example with iconv -f {kind} -t UTF-8")
    return Found(book, name, raw, path)


def unzip(raw: bytes, wanted: str) -> bytes:
    """The file called ``wanted``, in letters of either case and in any folder, out of a zip from a stranger.

    Raises:
        DamagedError: a zip that is damaged, encrypted, compressed by another method than deflate (the others cannot be
            unpacked within bounds), unpacks to more than ``MAX_BYTES``, has a member that would land outside of its
            folder, or has no ``wanted``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = {info.filename.replace("\\", "/"): info for info in archive.infolist()}
            for name in names:
                if name.startswith("/") or ".." in name.split("/") or ":" in name:
                    raise DamagedError(f"a zip with a member that leads outside, {name!r}")
            fitting = [name for name in names if name.rpartition("/")[2].lower() == wanted.lower()]
            if not fitting:
                raise DamagedError(f"a zip without {wanted}")
            member = names[min(fitting, key=lambda name: (name.count("/"), name))]
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DamagedError(f"a zip with compression method {member.compress_type}")
            with archive.open(member) as file:
                text = file.read(MAX_BYTES + 1)
    except _DAMAGE as error:
        raise DamagedError(f"a damaged zip ({error})") from error
    if len(text) > MAX_BYTES:
        raise DamagedError(f"a zip that unpacks to more than {MAX_BYTES >> 20} MiB")
    return text
