"""What is in a folder, by digest: a file that is damaged, swapped or edited is told from the one that was written.

``digests.json`` of a folder holds its kind, the identity of what is in it, and the SHA-256 of each file that was
written while the folder was held (``folder.hold``). A digest is noted before its file takes the name, beside the one
before: whatever moment a process is killed at, the file fits one of them, or is not there yet.
"""

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from firstsight.errors import InputError

DIGESTS = "digests.json"
FORMAT = "firstsight digests 1"
ABSENT = ""  # among the digests of a file that a kill may have kept from taking its name
DEPTH = 5  # folders above a file in which its manifest may be
ROUNDS = 4  # readings of a file that may be replaced meanwhile

_recorded: dict[Path, str] = {}  # the folders that are held, and what they are


@contextmanager
def recording(folder: Path, kind: str) -> Iterator[None]:
    """Note every file that is written in a folder and below, until the block ends; with the first of them its kind."""
    folder = folder.resolve()
    _recorded[folder] = kind
    try:
        yield
    finally:
        del _recorded[folder]


@contextmanager
def noted(path: Path, content: str | Path | bytes) -> Iterator[None]:
    """Note what a file will hold, around what puts it there; ``content`` or the name of a file that has it."""
    found = _place(path)
    if found is None:
        yield
        return
    folder, name = found
    digest = _hex(content) if isinstance(content, bytes) else sha256(content)
    manifest = _read(folder)
    manifest["kind"] = manifest["kind"] or _recorded[folder]
    before = manifest["files"].get(name) or [ABSENT]
    if len(before) > 1 and path.is_file():  # a kill came between: only one of them is true
        before = [one for one in before if one == sha256(path)] or before
    manifest["files"][name] = [*(one for one in before if one != digest), digest]
    _write(folder, manifest)
    yield
    manifest["files"][name] = [digest]
    _write(folder, manifest)


def forget(path: Path) -> None:
    """Remove a file, and what is noted of it."""
    path.unlink(missing_ok=True)
    if found := _place(path):
        folder, name = found
        manifest = _read(folder)
        if manifest["files"].pop(name, None):
            _write(folder, manifest)


def _place(path: Path) -> tuple[Path, str] | None:
    """The innermost held folder that a file is in, and its name there; None of a hidden one."""
    path = path.parent.resolve() / path.name
    above = [folder for folder in _recorded if path.is_relative_to(folder)]
    if not above:
        return None
    folder = max(above, key=lambda folder: len(folder.parts))
    name = path.relative_to(folder)
    return None if any(part.startswith(".") for part in name.parts) else (folder, name.as_posix())


def checked(path: Path, read: Callable[[], bytes]) -> bytes:
    """What ``read`` gives of a file, all of it or what a digest is of, once it is what was written.

    Raises:
        InputError: it is something else; or the manifest is damaged.
    """
    for attempt in range(ROUNDS):
        time.sleep(attempt / 100)
        content = read()
        if fits(path, partial(_hex, content)):
            return content
    raise altered(path)


def fits(path: Path, digest: str | Callable[[], str]) -> bool:
    """Whether a file is the one that was written; true of one that no manifest lists, whose digest is not asked for."""
    found = _listed(path)
    return found is None or (digest if isinstance(digest, str) else digest()) in found[1]


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_listed(path: Path) -> bool:
    """Whether a manifest says that this file was there."""
    found = _listed(path)
    return found is not None and ABSENT not in found[1]


def _listed(path: Path) -> tuple[Path, list[str]] | None:
    """The folder whose manifest lists a file, the nearest above it, and the digests that it may have."""
    path = path.absolute()
    for folder in list(path.parents)[:DEPTH]:
        if os.path.lexists(folder / DIGESTS):
            digests = _read(folder)["files"].get(path.relative_to(folder).as_posix())
            if digests:
                return folder, digests
    return None


def altered(path: Path) -> InputError:
    """What to raise of a file that does not fit."""
    found = _listed(path)
    folder = path.parent if found is None else _shown(path, found[0])
    return InputError(
        f"{path}: this is not the file that was written here: its SHA-256 is not the one in {folder / DIGESTS}. It "
        "was damaged, swapped or edited. Put it back from a copy; or, if it was changed on purpose, take the files as "
        f"they are now with: firstsight accept {folder}"
    )


def _shown(path: Path, folder: Path) -> Path:
    """A folder above a file as the user named it."""
    return next((one for one in path.parents if one.absolute() == folder), folder)


def check_file(path: Path) -> None:
    """Raise InputError unless a file, which is read in pieces, is the one that was written."""
    for attempt in range(ROUNDS):
        time.sleep(attempt / 100)
        if fits(path, partial(sha256, path)):
            return
    raise altered(path)


def check_there(*paths: Path) -> None:
    """Raise InputError if one of these files is gone that was once written: what goes on from it would begin anew."""
    for path in paths:
        if is_listed(path) and not path.exists():
            raise InputError(
                f"{path}: this file was written and is gone. Put it back from a copy: nothing can go on without it, "
                "and nothing is begun anew over what is left. Or move the folder away, or name another."
            )


def kind_of(folder: Path) -> str:
    """What a folder says it is; "" where it says nothing."""
    return str(_read(folder)["kind"])


def identity_of(folder: Path) -> dict[str, Any]:
    """What ``identify`` wrote down; empty where nothing was."""
    return dict(_read(folder)["identity"])


def identify(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down what a folder's files belong to."""
    manifest = _read(folder)
    if manifest["identity"] != identity:
        _write(folder, manifest | {"identity": dict(identity)})


def seal(folder: Path, kind: str) -> None:
    """Write the manifest of a folder that is whole, from the files as they are."""
    files = {
        path.relative_to(folder).as_posix(): [sha256(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DIGESTS and not path.name.startswith(".")
    }
    _write(folder, {"kind": kind, "identity": {}, "files": files})


def listed(folder: Path) -> dict[str, str]:
    """The files of a folder's manifest by name, with their digests; empty where there is none."""
    return {name: digests[-1] for name, digests in _read(folder)["files"].items()}


def accept(folder: str | Path) -> dict[str, list[str]]:
    """Take the files of a folder as they are now for those that were written.

    Returns:
        ``{"changed", "missing"}``: names of files that did not fit or were gone.

    Raises:
        InputError: the folder has no manifest, or is none.
    """
    folder = Path(folder)
    path = folder / DIGESTS
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, and it should be the list of a folder's files. Move it away.")
    if not os.path.lexists(path):
        raise InputError(f"{path}: there is no such file, so nothing in {folder} is checked, and nothing to accept.")
    try:
        manifest = _read(folder)
    except InputError:
        manifest = _parts(path)
    found: dict[str, list[str]] = {"changed": [], "missing": []}
    for name, digests in list(manifest["files"].items()):
        if not (folder / name).is_file():
            del manifest["files"][name]
            found["missing"].append(name)
        elif (now := sha256(folder / name)) not in digests:
            manifest["files"][name] = [now]
            found["changed"].append(name)
    _write(folder, manifest)
    return found


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts(path: Path) -> dict[str, Any]:
    """What can be read of a damaged manifest: the names of its files, or those of the folder."""
    folder = path.parent
    names = [one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()]
    kind = ""
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
        values = json.loads(path.read_bytes() if path.is_file() else b"")
        kind = values["kind"] if isinstance(values.get("kind"), str) else ""
    files = {name: [""] for name in names if name != DIGESTS and not any(p.startswith(".") for p in Path(name).parts)}
    return {"kind": kind, "identity": {}, "files": files}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / DIGESTS
    if not os.path.lexists(path):
        return {"kind": "", "identity": {}, "files": {}}
    content = path.read_bytes() if path.is_file() else b""
    try:
        values = json.loads(content)
        seal = values.pop("seal")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        seal = values = None
    if values is None or values.get("format") != FORMAT or seal != _seal(values) or content != _text(values):
        raise InputError(
            f"{path}: this is damaged, so the files beside it cannot be checked. Put it back from a copy, or take them "
            f"as they are with: firstsight accept {folder}"
        )
    return values  # type: ignore[no-any-return]


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps({**values, "seal": _seal(values)}, indent=1).encode() + b"\n"


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Whole or not at all. It is not brought to the disk at once: of a power loss nothing is promised."""
    path = folder / DIGESTS
    with beside(path, "wb", lambda temporary: os.replace(temporary, path)) as file:
        file.write(_text({"format": FORMAT, **{name: manifest[name] for name in ("kind", "identity", "files")}}))


@contextmanager
def beside(path: Path, mode: str, put: Callable[[str], None]) -> Iterator[IO[Any]]:
    """A temporary file beside ``path``; when the block ends well ``put`` is given its name, to make it that file.

    On an exception (a full disk too) the temporary file is removed. ``mode`` is ``"w"`` (UTF-8) or ``"wb"``.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        # A path that is no UTF-8 has lone surrogates; they become \udce9, which can be seen, and JSON reads it back.
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
        with open(descriptor, mode, encoding=encoding, errors=errors) as file:
            yield file
        put(temporary)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(path)  # a full disk does not say what it was full for
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
