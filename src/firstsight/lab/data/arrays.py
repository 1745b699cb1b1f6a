"""Arrays out of an ``.npz`` file of which every byte is checked."""

import errno
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError, RuntimeError)


def load_array(path: Path, name: str, what: str, mend: str) -> npt.NDArray[Any]:
    """One array, held against its CRC first: ``np.load`` by itself believes the header and stops before the checksum.

    Args:
        path: the file.
        name: the array's name in it.
        what: what the file is, for errors: "this list of documents".
        mend: what to do when it is damaged.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            raw = archive.read(f"{name}.npy")
        return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is an offset before the file's beginning
            raise
        raise InputError(f"{path}: {what} is damaged ({error}). {mend}") from error
