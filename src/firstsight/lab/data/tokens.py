"""Token files: a header that can be checked, then the ids of a split, read through a memory map.

The first 4096 bytes are one JSON object, padded with blanks and a line end, so ``head -c 4096`` shows what a file
is. Little-endian uint32 ids follow: 16 bits would wrap the rare words of any vocabulary past 65,535. N is the
number of tokens.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.system.files import atomic_write, parse_json, regular_file
from firstsight.lab.system.manifest import check_file
from firstsight.lab.system.shape import TEXT, WHOLE

HEADER_BYTES = 4096
_FORMAT, _VERSION, _DTYPE = "firstsight tokens", 1, np.dtype("<u4")


def write_tokens(path: str | Path, blocks: Iterable[npt.NDArray[Any]], vocabulary: Vocabulary) -> int:
    """Write a token file from blocks of ids, each an integer array [n], and return N.

    Only one block is in memory at a time. The file appears under its name when it is whole.

    Raises:
        InputError: an id is outside the vocabulary, or a block does not hold integers.
    """
    digest, count = hashlib.sha256(), 0
    with atomic_write(path, "wb") as file:
        file.write(b" " * HEADER_BYTES)
        for block in blocks:
            ids = _checked(block, vocabulary)
            digest.update(ids.data)
            file.write(ids)
            count += ids.size
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "dtype": "uint32, little-endian",
            "tokens": count,
            "vocabulary": vocabulary.hash,
            "vocabulary_size": len(vocabulary),
            "sha256": digest.hexdigest(),
        }
        file.seek(0)
        file.write(json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n")
    return count


def _checked(block: npt.NDArray[Any], vocabulary: Vocabulary) -> npt.NDArray[np.uint32]:
    block = np.asarray(block)
    if not np.issubdtype(block.dtype, np.integer):
        raise InputError(f"Token ids must be integers; a block of {block.dtype} was given.")
    if block.size and not 0 <= int(block.min()) <= int(block.max()) < len(vocabulary):
        raise InputError(
            f"Token ids from {block.min()} to {block.max()} were given, and the vocabulary has ids from 0 to "
            f"{len(vocabulary) - 1}. Encode the text with the vocabulary that the file is written for."
        )
    return np.ascontiguousarray(block, dtype=_DTYPE).reshape(-1)


def open_tokens(path: str | Path, vocabulary_hash: str) -> np.memmap:
    """Open a token file as a read-only memory map, uint32 [N], after checking all of it.

    The checksum reads the file once, in pieces: about a second per gigabyte.

    Raises:
        InputError: the file is missing, is not a token file, is of another version, was made with another
            vocabulary than the one whose ``hash`` is given, is cut short or too long, or holds altered ids.
    """
    path = Path(path)
    header = _read_header(path)
    if header["version"] != _VERSION:
        raise InputError(
            f"{path}: this token file has version {header['version']!r} and this firstsight reads version {_VERSION}. "
            "Prepare the data again with this firstsight, or use the firstsight that wrote it."
        )
    if header["vocabulary"] != vocabulary_hash:
        raise InputError(
            f"{path}: these tokens were made with another vocabulary (hash {str(header['vocabulary'])[:12]}, expected "
            f"{vocabulary_hash[:12]}), so their ids mean other words. Use the data folder that the vocabulary comes "
            "from, or prepare the data again."
        )
    count, data_bytes = header["tokens"], path.stat().st_size - HEADER_BYTES
    if count * _DTYPE.itemsize != data_bytes:
        raise InputError(
            f"{path}: the header promises {count:,} tokens ({count * _DTYPE.itemsize:,} bytes) and {data_bytes:,} "
            "bytes follow it: the file was cut short or added to. Prepare the data again, or copy the file anew."
        )
    if count == 0:
        raise InputError(f"{path}: this token file holds no tokens. Prepare the data again from a text that has some.")
    check_file(path)
    if _digest(path) != header["sha256"]:  # of a file that was accepted by hand too
        raise InputError(
            f"{path}: the tokens do not fit the checksum in the file's header: bytes were altered on the disk or on "
            "the way. Prepare the data again, or copy the file anew."
        )
    return np.memmap(path, dtype=_DTYPE, mode="r", offset=HEADER_BYTES, shape=(count,))


def text_hash(tokens: npt.NDArray[Any]) -> str:
    """The SHA-256 of a text's ids [N], in hex."""
    return hashlib.sha256(tokens.tobytes()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    with open(regular_file(path, "the tokens of a split"), "rb") as file:
        raw = file.read(HEADER_BYTES)
    shape = {"format": TEXT, "version": WHOLE, "tokens": WHOLE, "vocabulary": TEXT, "sha256": TEXT}
    try:
        header: dict[str, Any] = parse_json(raw if len(raw) == HEADER_BYTES else b"", str(path), "a header", shape)
        if header["format"] != _FORMAT:
            raise InputError(header["format"])
    except InputError as error:  # bad JSON and bad UTF-8 and every other damage alike
        raise InputError(
            f"{path}: this is not a token file, or its header is damaged: expected {HEADER_BYTES} bytes of JSON that "
            f"begin with the format {_FORMAT!r}. Prepare the data again, or copy the file anew."
        ) from error
    return header
