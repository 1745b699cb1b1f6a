"""Writing files whole or not at all, and telling whether they are whole."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from firstsight.errors import InputError
from firstsight.lab.system import manifest


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part. On an exception (a full disk too) the
    temporary file is removed and the old one stays. ``mode`` is ``"w"`` (UTF-8) or ``"wb"``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        # A path that is no UTF-8 has lone surrogates; they become \udce9, which can be seen, and JSON reads it back.
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
        with open(descriptor, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with manifest.noted(path, temporary):
            os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(path)  # a full disk does not say what it was full for
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file; ``what`` names it in errors ("the vocabulary of a corpus")."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file, and it should hold {what}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this should be {what} as JSON but is damaged ({error}). Make it anew.") from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    return digest(path, "sha256")


def digest(path: str | Path, algorithm: str) -> str:
    """The checksum of a file, in hex, by a name that ``hashlib`` knows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def regular_file(path: str | Path, what: str) -> Path:
    """``path``, once it is known to be a file, which opening a named pipe would wait for without end.

    Links are followed. ``what`` names the content in errors ("the vocabulary of a corpus").

    Raises:
        InputError: nothing is there, or it is a folder, a pipe, a socket or a device.
        OSError: the system does not let us look.
    """
    path = Path(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: there is no such file, and it should hold {what}.") from error
    if path.is_file():
        return path
    kinds = {"a folder": path.is_dir, "a pipe": path.is_fifo, "a socket": path.is_socket}
    kind = next((name for name, holds in kinds.items() if holds()), "a device")
    raise InputError(f"{path}: this is {kind}, and it should be a file with {what}. Give a file, or write one first.")
