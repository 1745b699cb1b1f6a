"""Zip files of which every byte that is read is checked, and arrays out of them."""

import errno
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError, RuntimeError)


@contextmanager
def opened_zip(path: Path, broken: str, mend: str) -> Iterator[zipfile.ZipFile]:
    """A zip file to be read in the block; where it turns out to be damaged, the error says ``broken`` and ``mend``."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except (*_DAMAGE, lzma.LZMAError, OSError) as error:
        # EINVAL is an offset before the file's beginning; without a number it is bzip2, for which one bit can ask
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(f"{path}: {broken} ({error}). {mend}") from error


def load_array(path: Path, name: str, what: str, mend: str) -> npt.NDArray[Any]:
    """One array of an ``.npz`` file, held against its CRC: ``np.load`` by itself stops before the checksum.

    ``what`` is the file, for errors: "this list of documents".
    """
    with opened_zip(path, f"{what} is damaged", mend) as archive:
        return np.asarray(np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False))
