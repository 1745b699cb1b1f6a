"""Standard output and error of a command: a reader that has gone, a full disk behind them or a character that a
terminal does not have never end the work."""

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from firstsight.errors import InputError
from firstsight.lab.system.progress import shown

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")  # of the parser of the flags, which writes them on a terminal alone


class _Stream(io.TextIOBase):
    """A stream whose writes do not fail: once it cannot be written, what is left to say is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.failure = self.failure or error
            with suppress(OSError, ValueError):  # what is in its buffer would be tried again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except ValueError:  # somebody has kept this stream for longer than there is one
            if not self._stream.closed:
                raise

    def replace_what_it_lacks(self, errors: str | None) -> None:
        """How it is to take characters that its encoding lacks, as ``open`` names it."""
        if isinstance(self._stream, io.TextIOWrapper):
            self._try(lambda: self._stream.reconfigure(errors=errors))

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self._stream, "encoding", None) or "utf-8")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Escaped(_Stream):
    """The same for whoever prints without a thought for the terminal: a warning, a library, the parser of the flags."""

    def __init__(self, unescaped: _Stream) -> None:
        super().__init__(unescaped)
        self.unescaped = unescaped

    def write(self, text: str) -> int:
        parts = _COLOURS.split(text) if self.isatty() else [text]
        return self.unescaped.write(
            "".join(part if i % 2 else shown(part, keep="\n\t") for i, part in enumerate(parts))
        )


def spoken(command: Callable[[], int]) -> int:
    """Run a command whatever becomes of its standard output and error, and give its exit code.

    Where a reader has gone (``firstsight ... | head``), or a stream was closed from the start, the rest is dropped and
    the code is as ever. Where standard output cannot be written otherwise (a full disk), that is said when the work is
    done, and the code is 2. What a stream's encoding lacks is written as an escape.
    """
    with _taken("stderr"), _taken("stdout") as out:
        code = _ended(command)
        sys.stdout.flush()
        if out.failure is not None and out.failure.errno != errno.EPIPE:
            why = out.failure.strerror
            print(
                f"firstsight: standard output could not be written: {why}. The work itself ended, and its files are "
                "whole.",
                file=sys.stderr,
            )
            code = code or InputError.exit_code
    return code


def _ended(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as end:  # how the parser of the flags ends
        return end.code if isinstance(end.code, int) else int(end.code is not None)


@contextmanager
def _taken(name: str) -> Iterator[_Stream]:
    """``sys.stdout`` or ``sys.stderr`` while its block lasts."""
    _fill()
    before: TextIO | None = getattr(sys, name)
    errors = getattr(before, "errors", None)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        stream = _Stream(before or nowhere)
        stream.replace_what_it_lacks("backslashreplace")
        setattr(sys, name, _Escaped(stream))
        try:
            yield stream
        finally:
            stream.flush()
            stream.replace_what_it_lacks(errors)
            setattr(sys, name, before)


def _fill() -> None:
    """Open what was closed (``>&-``): else the next file that is opened takes its number, and others write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
