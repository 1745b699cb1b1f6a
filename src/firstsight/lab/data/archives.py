"""Archives read as a stream to their last byte, so that their own checksums are heard; nothing is unpacked on the disk.

Python's modules stop early: tarfile at the mark of a tar's end, before the checksums of gzip, bzip2 or xz around it,
and their readers pass over what follows the last whole stream; zipfile believes a directory that lost an entry. What
each kind protects: gzip, bzip2 and xz all of their content; zip the content of each member, and names by having them
twice; a plain tar its headers alone.
"""

import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from firstsight.errors import InputError
from firstsight.lab.data.lines import printable
from firstsight.lab.system.files import regular_file
from firstsight.lab.system.progress import say

KINDS = ".tar, .tar.xz, .tar.gz, .tar.bz2 or .zip"
"""What is read as an archive, whatever its name."""

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, struct.error),
    *(RuntimeError, ValueError, KeyError),  # an encrypted zip or one of an unknown method, and nonsense in headers
)
_CHUNK = 1 << 16
_MOST_MEMORY = 1 << 30  # that unpacking xz may take: its own utmost preset needs 65 MiB
_MOST_PADDING = 1 << 26  # zeros behind the end of a tar: tapes have blocks of some MiB
_MOST_NAME = 1 << 20  # bytes of a header of a header, which tarfile reads at once
_OF_NAMES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_XZ = b"\xfd7zXZ\0"


@dataclass(frozen=True)
class Entry:
    """What stands in an archive under a name.

    Attributes:
        name: its path in the archive; ``printable`` before anybody sees it.
        size: its bytes, as the archive tells before they are read.
        kind: "file", "link" or "other".
        open: gives its content, where it is a file. Of a stream this must happen before the next entry is asked for.
    """

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes]]


@contextmanager
def named(path: str | Path, kinds: str = KINDS) -> Iterator[None]:
    """Whatever reading an archive raises in this block becomes an ``InputError`` that names the archive."""
    try:
        yield
    except InputError:
        raise
    except (*_DAMAGE, OSError) as error:
        # An error of the system has a number; EINVAL is an offset before the file's beginning.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: this archive is damaged or was cut short ({why}), or it is none. Expected a whole {kinds}: fetch "
            "it anew."
        ) from error


def list_entries(path: str | Path, most: int | None = None) -> list[tuple[str, int, str]]:
    """Name, size and kind of each entry, after all of the archive was read and its checksums were held against it.

    Of a zip that is its directory: a member is checked where it is read. Says so where there are no checksums.

    Args:
        path: the archive.
        most: bytes that the members may have in all, where that is known beforehand.

    Raises:
        InputError: it is no archive, or a damaged one, or holds more than ``most`` bytes.
    """
    found: list[tuple[str, int, str]] = []
    total = 0
    with closing(entries(path)) as stream:
        for entry in stream:
            total += entry.size
            if most is not None and total > most:  # before any of it is unpacked
                raise InputError(
                    f"{path}: the files in this archive have more than {most:,} bytes in all, up to "
                    f"{printable(entry.name)}. Expected the corpus and nothing else."
                )
            found.append((entry.name, entry.size, entry.kind))
    return found


def entries(path: str | Path) -> Generator[Entry, None, None]:
    """The entries of an archive, in its order; whoever draws all of them has had the whole archive checked."""
    with open(regular_file(path, "an archive"), "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if not magic:
            raise InputError(f"{path}: this file is empty. Expected a {KINDS}: fetch it anew.")
        read = _of_zip(file) if magic[:2] == b"PK" else _of_tar(file, magic, str(path))
        with closing(read):
            while True:
                with named(path):
                    entry = next(read, None)
                if entry is None:
                    return
                yield entry


def _of_zip(file: IO[bytes]) -> Generator[Entry, None, None]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        promised = _promised(file)
        if promised not in (len(members), 0xFFFF):  # which is where zip64 begins
            raise zipfile.BadZipFile(f"its directory has {len(members):,} entries instead of {promised:,}")
        for member in members:
            file.seek(member.header_offset)
            head = file.read(30)
            name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
            if head[:4] != b"PK\3\4" or file.read(int.from_bytes(head[26:28], "little")) != name:
                raise zipfile.BadZipFile(f"its directory has {member.orig_filename!a} where something else lies")
            mode = member.external_attr >> 16
            kind = "link" if stat.S_ISLNK(mode) else "other" if member.is_dir() else "file"
            yield Entry(member.filename, member.file_size, kind, partial(archive.open, member))


def _promised(file: IO[bytes]) -> int:
    """The number of entries that the end of a zip's directory gives, modulo 65,536; zipfile does not look at it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 22 - 0xFFFF, 0))
    tail = file.read()
    return int.from_bytes(tail[(at := tail.rfind(b"PK\5\6")) + 10 : at + 12], "little")


def _of_tar(file: IO[bytes], magic: bytes, path: str) -> Generator[Entry, None, None]:
    stream, checked = _unpacked(file, magic)
    mode = "r:" if stream is file else "r|"  # a file can be skipped in
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Strict) as archive:  # type: ignore[call-overload]
        at = -1
        while entry := archive.next():
            if archive.offset <= at:  # a size below 0 in a header of a header leads around in a circle
                raise tarfile.ReadError("its headers lead back")
            at = archive.offset
            archive.members.clear()  # or it keeps a note of every file of a whole mirror
            kind = "file" if entry.isfile() else "link" if entry.issym() or entry.islnk() else "other"
            yield Entry(entry.name, entry.size, kind, partial(_content, archive, entry))
        padding = 0
        while block := archive.fileobj.read(_CHUNK):
            padding += len(block)
            if block.count(0) < len(block) or padding > _MOST_PADDING:
                raise tarfile.ReadError("something follows behind its end")
    if not checked():
        say(f"{path}: this archive has no checksums of its content: damage in it cannot be seen here")


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry)
    assert file is not None  # it is a file
    return file


def _unpacked(file: IO[bytes], magic: bytes) -> tuple[IO[bytes], Callable[[], bool]]:
    """What a packed file holds, and whether checksums were held against it, as far as it was read."""
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file), lambda: True  # type: ignore[return-value]
    if magic[:3] == b"BZh":
        return io.BufferedReader(_Streams(file, BZ2Decompressor), _CHUNK), lambda: True
    if magic == _XZ:
        streams = _Streams(file, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_MOST_MEMORY))
        return io.BufferedReader(streams, _CHUNK), lambda: streams.unpack.check != lzma.CHECK_NONE
    return file, lambda: False


class _Streams(io.RawIOBase):
    """One or several streams of xz or bzip2, zeros between and behind them, and nothing else."""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self.file, self.make, self.unpack = file, make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            packed = b""
            if self.unpack.eof:
                if not (packed := self._next_stream()):
                    return 0
                self.unpack = self.make()
            elif self.unpack.needs_input and not (packed := self.file.read(_CHUNK)):
                raise EOFError("it ends in the middle of a stream")
            data = self.unpack.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next_stream(self) -> bytes:
        """Where another stream seems to begin; nothing at the end of the file."""
        packed: bytes = self.unpack.unused_data.lstrip(b"\0")
        while not packed and (more := self.file.read(_CHUNK)):
            packed = more.lstrip(b"\0")
        return packed


class _Strict(tarfile.TarInfo):
    """tarfile takes a damaged header, or none, for the end of the archive: files would be missing without a word."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            entry = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the mark of the end
                raise
            raise tarfile.ReadError(str(error)) from error
        if entry.size < 0 or (entry.type in _OF_NAMES and entry.size > _MOST_NAME):
            raise tarfile.ReadError(f"a header promises {entry.size:,} bytes")
        return entry
