"""Writing files whole or not at all, telling whether they are whole, and reading JSON and YAML of whatever origin."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml

from firstsight.errors import InputError
from firstsight.lab.system import manifest
from firstsight.lab.system.manifest import sha256 as sha256
from firstsight.lab.system.shape import Shape, check_plain, check_shape, shorten, shown

# Bytes of a file that is read as a whole, at most. PyYAML takes seconds for those of its limit.
_MOST, _MOST_YAML = 4 * 2**30, 2**18
_LONGEST = 64  # characters of a number in YAML: of longer ones PyYAML takes hours


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part. On an exception (a full disk too) the
    temporary file is removed and the old one stays. ``mode`` is ``"w"`` (UTF-8) or ``"wb"``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def put(temporary: str) -> None:
        with manifest.noted(path, temporary):
            os.replace(temporary, path)

    with manifest.beside(path, mode, put) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextmanager
def naming(path: str | Path, what: str, mend: str = "Make it anew.") -> Iterator[None]:
    """Whatever is wrong with the content of a file in this block is an InputError that names it.

    For what a file's values are made into: one that is missing or of another kind shows in many ways, and the block
    holds nothing else that could.
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        why = shorten(f"{type(error).__name__}: {error}")
        raise InputError(
            f"{path}: this should be {what}, but something in it is missing or of another kind ({why}). {mend}"
        ) from error


def read_bytes(path: str | Path, what: str, *, most: int = _MOST) -> bytes:
    """A whole file, held against the manifest that lists it; ``what`` names its content in errors.

    Raises:
        InputError: it is no file, has more bytes than ``most``, or is not the one that was written there.
    """
    path = regular_file(path, what)
    if (size := path.stat().st_size) > most:
        raise InputError(
            f"{path}: this should be {what}, and {size:,} bytes are more than the {most:,} that it can have."
        )
    return manifest.checked(path, path.read_bytes)


def read_text(path: str | Path, what: str, *, most: int = _MOST) -> str:
    """A whole file of UTF-8, as ``read_bytes`` reads it; ``what`` names its content ("the vocabulary of a corpus")."""
    content = read_bytes(path, what, most=most)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this should be {what} in UTF-8 but is damaged ({error}). Make it anew.") from error


def read_json(path: str | Path, what: str, shape: Shape = None, mend: str = "Make it anew.") -> Any:
    """Read a JSON file of the shape that it is to have; ``what`` names it in errors ("the vocabulary of a corpus").

    Raises:
        InputError: there is no such file, it is no JSON, or of another shape; or it holds what we never write: NaN,
            numbers of more than 64 bits, a name twice, values nested deeper than any of ours.
    """
    return parse_json(read_text(path, what), str(path), what, shape, mend)


def parse_json(text: str | bytes, source: str, what: str, shape: Shape = None, mend: str = "Make it anew.") -> Any:
    """``read_json`` for JSON that lies in something else: a line of a file, an array; ``source`` is where."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_unique)
        check_plain(value)
    except (ValueError, RecursionError) as error:  # of the decoder, of int() for thousands of digits, and our own
        why = shorten(str(error))
        raise InputError(f"{source}: this should be {what} as JSON but is damaged ({why}). {mend}") from error
    if shape is not None:
        check_shape(value, shape, source, mend)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in found if names.count(name) > 1))} is given twice")
    return found


def read_yaml(path: str | Path, what: str) -> Any:
    """Read one YAML document of plain values; ``what`` names it in errors ("the settings of a run").

    As in YAML 1.2 a date is text. Anchors are refused: with them a short file can hold more than any memory.

    Raises:
        InputError: there is no such file, it is no YAML of this kind, or it holds a name twice, a number that is not
            finite or has more than 64 bits, or values nested deeper than any of ours.
    """
    text = read_text(path, what, most=_MOST_YAML)
    try:
        value = yaml.load(text, _Plain)
        check_plain(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = shorten(" ".join(str(error).split()).replace(' in "<unicode string>"', ""), 300)
        raise InputError(
            f"{path}: this should be {what} as YAML in UTF-8 but is damaged ({why}). Mend that place."
        ) from error
    return value


class _Plain(yaml.SafeLoader):
    """Values as JSON has them, each written out, each name once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise _refused("an anchor or alias (& or *), which is not read: write the value out", event)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag.rpartition(":")[2] not in ("null", "bool", "int", "float", "str", "seq", "map"):
            raise _refused(f"the tag {shown(node.tag)}, which is not read", node)
        if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST:
            raise _refused(f"a number of {len(node.value):,} characters", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:  # of odd scalars: 0x_, !!bool x, !!int ''
            raise _refused(f"{shown(node.value)}, which is no {node.tag.rpartition(':')[2]}", node) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """YAML keeps the last of two equal names without a word."""
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise _refused(f"{', '.join(twice)} given twice", node)
        return super().construct_mapping(node, deep)


_Plain.yaml_implicit_resolvers = {
    first: [one for one in resolvers if not one[0].endswith((":timestamp", ":merge", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refused(what: str, at: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, at.start_mark)


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
