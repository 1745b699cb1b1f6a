"""Zip files of which every byte that is read is checked, and arrays out of them."""

import errno
import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.system.files import read_bytes, regular_file
from firstsight.lab.system.machine import memory_bytes

# What zipfile and numpy raise of bytes that they did not write, of a hostile header too.
_DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,
    TypeError,
)
_DAMAGE += (ArithmeticError, MemoryError, AttributeError, SyntaxError, tokenize.TokenError)
_DAMAGE_OF_ZIP: tuple[type[Exception], ...] = (*_DAMAGE, lzma.LZMAError, OSError)


@contextmanager
def opened_zip(path: Path, broken: str, mend: str, content: bytes | None = None) -> Iterator[zipfile.ZipFile]:
    """A zip file, or its ``content``, to be read; where it turns out damaged the error says ``broken`` and ``mend``."""
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            yield archive
    except InputError:
        raise
    except _DAMAGE_OF_ZIP as error:
        # EINVAL is an offset before the file's beginning; without a number it is bzip2, for which one bit can ask
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(f"{path}: {broken} ({error}). {mend}") from error


def load_array(path: Path, name: str, what: str, mend: str) -> npt.NDArray[Any]:
    """One array of an ``.npz`` file: see ``load_arrays``."""
    return load_arrays(path, [name], what, mend)[name]


def load_arrays(path: Path, names: Iterable[str], what: str, mend: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``.npz`` file, each held against its CRC: ``np.load`` by itself stops before the checksum.

    ``what`` is the file, for errors: "this list of documents". Objects are never unpickled.

    Raises:
        InputError: there is no such file, an array is missing, or what is there is damaged.
    """
    content = read_bytes(path, what.removeprefix("this "))
    with opened_zip(path, f"{what} is damaged", mend, content) as archive:
        return {name: _array(archive, f"{name}.npy") for name in names}


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    if (size := archive.getinfo(name).file_size) > memory_bytes():
        raise ValueError(f"{name} says that it has {size:,} bytes, which this machine cannot hold")
    content = io.BytesIO(archive.read(name))
    array = np.asarray(np.lib.format.read_array(content, allow_pickle=False))
    if content.read(1):
        raise ValueError(f"{name} has more bytes than its header says")
    return array


def map_array(path: Path, dtype: npt.DTypeLike, what: str, mend: str) -> np.memmap[Any, Any]:
    """A ``.npy`` file as a read-only memory map, of that type and as long as its header says."""
    regular_file(path, what.removeprefix("this "))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap) or array.dtype != dtype:
            raise ValueError(f"it holds {array.dtype}, not {np.dtype(dtype)}")
        if array.offset + array.nbytes != path.stat().st_size:
            raise ValueError("its bytes are not as many as its header says")
    except _DAMAGE as error:
        raise InputError(f"{path}: {what} is damaged ({error}). {mend}") from error
    return array
