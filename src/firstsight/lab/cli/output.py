"""What all commands share: what they print, their common flags, and how bad flags are told."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from rich.console import Console
from tyro.conf import arg

from firstsight.errors import InputError

Found = dict[str, Any]
Json = Annotated[bool, arg(help="print one JSON object on standard output and nothing else there")]
Checkpoint = Literal["best", "last"]

console = Console(highlight=False)


def show(found: Found, as_json: bool, printer: Callable[[Found], None]) -> int:
    """Print what a command found, and give the command's exit code."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        printer(found)
    sys.stdout.flush()  # here a reader that has gone, or a full disk, can still be answered
    reason = str(found.get("reason", found.get("interrupted", "")))
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


def fail(message: str, code: int) -> int:
    """Print one paragraph to standard error, and give the exit code."""
    print(f"firstsight: {message}", file=sys.stderr)
    return code


class BadFlagError(Exception):
    """An InputError about a flag. It is no ``ValueError``, since tyro takes those for its own and words them anew."""


@contextmanager
def checking_flags() -> Iterator[None]:
    """Turn an InputError into a BadFlagError."""
    try:
        yield
    except InputError as error:
        raise BadFlagError(error) from error
