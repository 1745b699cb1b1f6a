"""The one exception for mistakes a user can make and mend, and warnings that point at the user's line."""

import sys
import warnings
from pathlib import Path

# Where a warning of ours does not point: to the package, to torch, to what a ``with`` runs through.
_NOT_THEIRS = (str(Path(__file__).parent), "/torch/", "contextlib.py")


class InputError(ValueError):
    """Bad input: the message says what was given, what was expected and how to mend it.

    It is a ``ValueError``, so library users catch what they always catch; the command line turns
    this class, and only this class and ``OSError``, into one paragraph and exit code 2. Any other
    exception is a fault of ours and keeps its traceback.
    """

    exit_code = 2


def warn(text: str) -> None:
    """A ``UserWarning`` of the first line outside of this package and of torch."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _NOT_THEIRS):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
