"""The files of a store: each a header that can be checked, rows that are read through a memory map, their checksums.

The first 4096 bytes are one JSON object, padded with blanks and a line end, so ``head -c 4096`` shows what a file is.
The rows follow, and after them the SHA-256 of each block of them, 32 bytes each. ``sha256`` of the header is that of
these, and ``check`` that of the header's other values: whatever is altered shows, and where.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.functional.tiling.tiles import slices

HEADER_BYTES, DIGEST_BYTES = 4096, 32
FORMAT, VERSION = "firstsight datastore", 1
AGAIN = "Build the store again, or copy it anew."

Array = npt.NDArray[Any]
Value = str | int | float | bool


@dataclass(frozen=True)
class Column:
    """A file of a store: ``width`` values a row, one where it is None; ``of`` is a checksum of what it belongs to."""

    name: str
    dtype: str
    width: int | None = None
    of: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * (self.width or 1)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.bin"

    def shape(self, count: int) -> tuple[int, ...]:
        """Of ``count`` rows."""
        return (count,) if self.width is None else (count, self.width)

    def mapped(self, folder: Path, count: int) -> Array:
        """Its rows, read through a memory map; a change of the array is never written back.

        It may be changed so that torch takes it as it is: of an array that must not be, it warns.
        """
        if not count:
            return np.empty(self.shape(0), dtype=self.dtype)
        return np.memmap(folder / self.file, dtype=self.dtype, mode="c", offset=HEADER_BYTES, shape=self.shape(count))


def sealed(values: Mapping[str, Any]) -> str:
    """One line of JSON with the checksum of its values."""
    return json.dumps({**values, "check": _seal(values)}, ensure_ascii=False)


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The values of a line that ``sealed`` made; ValueError where one was altered."""
    try:
        values = json.loads(text.decode() if isinstance(text, bytes) else text)  # of bytes json takes UTF-16 too
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(values, dict) or values.pop("check", None) != _seal(values):
        raise ValueError("its values do not fit their checksum")
    return values


def page(values: Mapping[str, Any]) -> bytes:
    """Sealed values as a file of their own, for people to read."""
    return json.dumps(json.loads(sealed(values)), indent=2, ensure_ascii=False).encode() + b"\n"


def read_page(raw: bytes) -> dict[str, Any]:
    """The values of ``page``; ValueError unless it is that to the last byte: a line twice would change no value."""
    values = unsealed(raw)
    if raw != page(values):
        raise ValueError("it is written in another way")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def put_in_place(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends well, whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def header(column: Column, count: int, block: int, digests: Sequence[bytes]) -> tuple[bytes, str]:
    """The 4096 bytes that say what a file holds, and the checksum of its rows that is in them."""
    sha256 = hashlib.sha256(b"".join(digests)).hexdigest()
    values = {
        "format": f"{FORMAT}, {column.name}",
        "version": VERSION,
        "dtype": column.dtype,
        "count": count,
        "dim": column.width or 1,
        "block": block,
        "of": column.of,
        "sha256": sha256,
    }
    return sealed(values).encode().ljust(HEADER_BYTES - 1) + b"\n", sha256


def finish(file: IO[bytes], column: Column, count: int, block: int, digests: Sequence[bytes]) -> str:
    """Put header and checksums around the rows that a file holds; returns the checksum in its header."""
    head, sha256 = header(column, count, block, digests)
    file.truncate(HEADER_BYTES + count * column.row_bytes)
    file.seek(0, os.SEEK_END)
    file.write(b"".join(digests))
    file.seek(0)
    file.write(head)
    file.flush()
    os.fsync(file.fileno())
    return sha256


def write_column(folder: Path, column: Column, rows: Array, block: int) -> str:
    """A whole file at once, in the place of what there was; returns the checksum in its header."""
    rows = np.ascontiguousarray(rows, dtype=column.dtype)
    digests = [hashlib.sha256(rows[part].tobytes()).digest() for part in slices(len(rows), block)]
    with put_in_place(folder / column.file) as file:
        file.write(b" " * HEADER_BYTES)
        file.write(rows.tobytes())
        return finish(file, column, len(rows), block, digests)


def open_column(folder: Path, column: Column, count: int, sha256: str | None, *, check: bool) -> Array:
    """The rows of a file, after it was held against its header, and that against what the store says of it.

    Args:
        folder: of the store.
        column: which file, and what its rows are to be.
        count: how many there are to be.
        sha256: the checksum that its header is to have, or None for whatever it has.
        check: also read all rows, and hold them against their checksums.

    Raises:
        InputError: the file is missing, damaged, cut short, another store's, or of another version.
    """
    path = folder / column.file
    values = _read_header(path, column)
    size = path.stat().st_size - HEADER_BYTES
    blocks = -(-count // values["block"])
    expected = count * column.row_bytes + blocks * DIGEST_BYTES
    if (values["count"], values["dim"], values["dtype"]) != (count, column.width or 1, column.dtype) or (
        values["of"] != column.of or values["sha256"] != (sha256 or values["sha256"])
    ):
        raise InputError(
            f"{path}: this file holds {values['count']:,} rows of {values['dim']} x {values['dtype']} with the "
            f"checksum {values['sha256'][:12]}, and the store is of {count:,} rows of {column.width or 1} x "
            f"{column.dtype} with {(sha256 or column.of)[:12]}: it is of another store. {AGAIN}"
        )
    if size != expected:
        raise InputError(
            f"{path}: the header promises {count:,} rows, {expected:,} bytes with their checksums, and {size:,} bytes "
            f"follow it: the file was cut short or added to. {AGAIN}"
        )
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES + count * column.row_bytes)
        digests = file.read()
        if hashlib.sha256(digests).hexdigest() != values["sha256"]:
            raise InputError(f"{path}: the checksums at its end were altered. {AGAIN}")
        if check:
            _check_rows(path, file, column, count, values["block"], digests)
    return column.mapped(folder, count)


def _check_rows(path: Path, file: IO[bytes], column: Column, count: int, block: int, digests: bytes) -> None:
    file.seek(HEADER_BYTES)
    for i, part in enumerate(slices(count, block)):
        found = hashlib.sha256(file.read((part.stop - part.start) * column.row_bytes)).digest()
        if found != digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]:
            raise InputError(
                f"{path}: rows {part.start:,} to {part.stop - 1:,} do not fit their checksum: bytes were altered on "
                f"the disk or on the way. {AGAIN}"
            )


def read_some(path: Path, what: str, most: int | None = None) -> bytes:
    """The first ``most`` bytes of a file, or all of them; InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file, and it should hold {what}. {AGAIN}")
    with open(path, "rb") as file:
        return file.read(-1 if most is None else most)


def _read_header(path: Path, column: Column) -> dict[str, Any]:
    raw = read_some(path, f"the {column.name} of a store", HEADER_BYTES)
    try:
        values = unsealed(raw if len(raw) == HEADER_BYTES else b"")
    except ValueError as error:  # bad JSON and bad UTF-8 too
        raise InputError(
            f"{path}: this is not a file of a store, or its header is damaged: expected {HEADER_BYTES} bytes of JSON "
            f"with the format {f'{FORMAT}, {column.name}'!r}. {AGAIN}"
        ) from error
    check_version(path, values, f"{FORMAT}, {column.name}")
    return values


def check_version(path: Path, values: Mapping[str, Any], expected: str) -> None:
    """Raise InputError unless a file's values are of this format and version."""
    if values.get("format") != expected:
        raise InputError(
            f"{path}: this file has the format {values.get('format')!r}; expected {expected!r}. Files were put in "
            f"each other's places. {AGAIN}"
        )
    if values.get("version") != VERSION:
        raise InputError(
            f"{path}: this file has version {values.get('version')!r} and this firstsight reads version {VERSION}. "
            "Build the store again with this firstsight, or use the firstsight that wrote it."
        )
