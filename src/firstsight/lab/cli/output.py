"""What all commands share: what they print and where it goes, their common flags, and how bad flags are told."""

import errno
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from rich.table import Table
from tyro.conf import arg

from firstsight.errors import InputError
from firstsight.lab.system.progress import PlainConsole, shown

Found = dict[str, Any]
Json = Annotated[bool, arg(help="print one JSON object on standard output and nothing else there")]
Checkpoint = Annotated[Literal["best", "last"], arg(help="which weights.")]
Moved = Annotated[Path | None, arg(metavar="PATH", help="the data folder, if it was moved since training.")]
# What may be left out; tyro's own name for it is {None}|PATH.
MaybePath = Annotated[Path | None, arg(metavar="PATH")]
MaybeText = Annotated[str | None, arg(metavar="TEXT")]
MaybeInt = Annotated[int | None, arg(metavar="INT")]
MaybeFloat = Annotated[float | None, arg(metavar="FLOAT")]

Device = Annotated[
    str, arg(help="where the model is put: auto (the first GPU of CUDA, else the CPU), cpu, cuda, cuda:1, mps.")
]

console = PlainConsole()


def show(found: Found, as_json: bool, printer: Callable[[Found], None]) -> int:
    """Print what a command found, and give the command's exit code."""
    if as_json:
        print(_json(found))
    else:
        printer(found)
    reason = str(found.get("reason", found.get("interrupted", "")))
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


def _json(value: Found) -> str:
    """One line of JSON with the true values: what a terminal or the stream's encoding cannot take is ``\\u001b``."""
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False)
    return text if text.isprintable() else "".join(map(_json_char, text))


def _json_char(char: str) -> str:
    # json.dumps leaves DEL as it is
    return char if shown(char) == char else "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def tell(*lines: object) -> None:
    """Print lines on standard output, each as one line whatever is in it."""
    for line in lines:
        print(shown(str(line)))


def new_table(title: str, names: Sequence[str], left: Collection[str] = ("",)) -> Table:
    """A table with its title to the left, and its columns to the right but those named ``left``."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right")
    return table


def fail(message: str, code: int) -> int:
    """Print one paragraph to standard error, and give the exit code."""
    print(f"firstsight: {shown(message)}", file=sys.stderr)
    return code


class BadFlagError(Exception):
    """An InputError about a flag. It is no ``ValueError``, since tyro takes those for its own and words them anew."""


class Checked:
    """Before settings among the bases of a command's flags: what they refuse is a BadFlagError."""

    def __post_init__(self) -> None:
        """Check every value."""
        try:
            super().__post_init__()  # type: ignore[misc]
        except InputError as error:
            raise BadFlagError(error) from error


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
