"""The one exception for mistakes a user can make and mend, and warnings that point at the user's line."""

import sys
import warnings
from pathlib import Path
from types import FrameType

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
    theirs = outside(sys._getframe(1))
    level, frame = 2, sys._getframe(1)
    while frame is not theirs and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def outside(frame: FrameType) -> FrameType:
    """The first frame outside of this package and of torch that led to this one; the outermost if there is none."""
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _NOT_THEIRS):
        frame = frame.f_back
    return frame
