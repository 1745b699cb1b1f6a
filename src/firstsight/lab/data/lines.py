"""From bytes to text: lines of UTF-8 out of a binary file, one at a time, and what bytes look like that are none."""

import codecs
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

from firstsight.errors import InputError
from firstsight.lab.system.files import regular_file
from firstsight.lab.system.progress import say

MAX_LINE_BYTES = 1 << 24
"""A longer line is refused: memory stays bounded, and a file without line ends is not a text in lines."""

_CHUNK = 1 << 18
_LISTED = 5
_SAMPLE = 1 << 16  # bytes of a file's beginning that tell how it is encoded
_CONTROLS = frozenset(map(chr, range(32))) - frozenset("\t\n\v\f\r")
_MARKS = {  # UTF-32's begins with UTF-16's; iconv takes the mark away where the name does not say which end comes first
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def text_lines(path: str | Path) -> Iterator[str]:
    """``read_lines`` of somebody's plain text, which an error calls by its path."""
    with open(regular_file(path, "plain text"), "rb") as file:
        yield from read_lines(file, str(path))


def read_lines(file: IO[bytes], name: str, *, lone_cr: bool = True, ends: bool = False) -> Iterator[str]:
    r"""Yield the lines of a file without their ``"\n"``; ``name`` is how errors call the file.

    A line ends with ``"\n"``, or with a ``"\r"`` by itself, as on old Macs; the ``"\r"`` of ``"\r\n"`` stays, being
    white space. The other separators that ``str.splitlines`` knows occur inside lines of real corpora. A byte order
    mark at the beginning is dropped.

    Args:
        lone_cr: with False ``"\n"`` alone ends a line, for corpora whose tokens are counted so.
        ends: give each line with its end, for formats in which a line break can be part of a value.

    Raises:
        InputError: bytes that are not UTF-8 (says where, and what they look like), a byte 0 (UTF-8 could hold it, but
            no text does), or a line past 16 MiB.
    """
    start, offset = file.read(_CHUNK), 0
    chunks = chain([start], iter(partial(file.read, _CHUNK), b""))
    for number, raw in enumerate(_raw_lines(chunks, lone_cr), 1):
        if len(raw) > MAX_LINE_BYTES:
            raise InputError(
                f"{name}: line {number:,} is longer than {MAX_LINE_BYTES >> 20} MiB. Expected text in lines, one "
                "sentence or paragraph each: put in line breaks."
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _no_utf8(name, number, raw, error.start, offset, start) from error
        if "\0" in line:
            raise _no_utf8(name, number, raw, raw.index(0), offset, start)
        if number == 1:
            line = line.removeprefix("\ufeff")
        ended = line.endswith("\n") or (lone_cr and line.endswith("\r"))
        yield line[:-1] if ended and not ends else line
        offset += len(raw)


def _raw_lines(chunks: Iterable[bytes], lone_cr: bool) -> Iterator[bytes]:
    """Lines with their ends; of a line past the bound its beginning, which the caller refuses."""
    rest = b""
    for chunk in filter(None, chunks):
        rest += chunk
        lines = rest.splitlines(keepends=True) if lone_cr else io.BytesIO(rest).readlines()
        # "\r" at the end of a chunk may be half of "\r\n"
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        yield rest


def _no_utf8(name: str, number: int, raw: bytes, at: int, offset: int, start: bytes) -> InputError:
    """What is said of a line that is no text in UTF-8; ``start`` are the file's first bytes, for a guess."""
    if (kind := encoding_of(start)) is not None:
        return InputError(
            f"{name}: this looks like {kind}. Expected UTF-8 text: convert it, for example with iconv -f {kind} -t "
            "UTF-8 OLD > NEW."
        )
    where = f"(byte 0x{raw[at]:02x} at position {offset + at:,} of the file)"
    if raw[at] == 0:
        return InputError(
            f"{name}: line {number:,} holds a NUL {where}, and no text does. Expected UTF-8 text: if this is one, take "
            "the NULs out, for example with tr -d '\\000' < OLD > NEW."
        )
    return InputError(
        f"{name}: line {number:,} is not UTF-8 {where}. Expected UTF-8 text: convert it, for example with iconv -f "
        "LATIN1 -t UTF-8 OLD > NEW."
    )


def encoding_of(raw: bytes) -> str | None:
    """Which of UTF-16 and UTF-32 some bytes from the beginning of a file are, by iconv's name; None for neither.

    A byte order mark is believed. Without one it takes a 0, which UTF-8 does not need, and that all decodes, into no
    control character but white space. Any two bytes are a character of UTF-16, so of these some must be line ends (an
    eighth of the bytes that could be) or ASCII (a tenth of all): our decision.
    """
    raw = raw[:_SAMPLE]
    for mark, kind in _MARKS.items():
        if raw.startswith(mark):
            return kind
    if 0 not in raw:
        return None
    found: dict[str, tuple[int, int]] = {}
    for kind in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        try:  # the last character may be cut in two
            text = codecs.getincrementaldecoder(kind)().decode(raw)
        except UnicodeDecodeError:
            continue
        ends, plain = text.count("\n") + text.count("\r"), sum(character < "\x80" for character in text)
        some = 10 * plain >= len(text) or 8 * ends >= raw.count(b"\n") + raw.count(b"\r") > 0
        if text and not _CONTROLS.intersection(text) and (some or "32" in kind):
            found[kind] = (ends, plain)
    return max(found, key=lambda kind: found[kind], default=None)


def printable(name: str) -> str:
    """A name that others chose, as it is or, where it holds signs that a terminal would act on, as Python writes it."""
    return name if name.isprintable() else ascii(name)


def say_unread(folder: Path, left: Sequence[Path], why: str) -> None:
    """Name what lies in a folder of texts and is not read, the first few of it."""
    if left:
        listed = ", ".join(printable(str(path.relative_to(folder))) for path in sorted(left)[:_LISTED])
        more = f" and {len(left) - _LISTED:,} more" if len(left) > _LISTED else ""
        say(f"{folder}: not read, since {why}: {listed}{more}")
