"""What all commands share: what they print, their common flags, and how bad flags are told."""

import json
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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
