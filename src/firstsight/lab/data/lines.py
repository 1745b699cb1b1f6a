"""Lines of UTF-8 text out of a binary file, one at a time."""

from collections.abc import Iterator
from typing import IO

from firstsight.errors import InputError

MAX_LINE_BYTES = 1 << 24
"""A longer line is refused: memory stays bounded, and a file without line ends is not a text in lines."""


def read_lines(file: IO[bytes], name: str) -> Iterator[str]:
    r"""Yield the lines of a file without their ``"\n"``; ``name`` is how errors call the file.

    Only ``"\n"`` ends a line: the other separators that ``str.splitlines`` knows occur inside lines of real corpora.
    A byte order mark at the beginning is dropped.

    Raises:
        InputError: bytes that are not UTF-8 (says where), or a line past 16 MiB.
    """
    offset = 0
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise InputError(
                f"{name}: line {number:,} is longer than {MAX_LINE_BYTES >> 20} MiB. Expected text in lines, one "
                "sentence or paragraph each: put in line breaks."
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: line {number:,} is not UTF-8 (byte 0x{raw[error.start]:02x} at position "
                f"{offset + error.start:,} of the file). Expected UTF-8 text: convert it, for example with "
                "iconv -f LATIN1 -t UTF-8."
            ) from error
        yield line.removesuffix("\n").removeprefix("\ufeff" if number == 1 else "")
        offset += len(raw)
