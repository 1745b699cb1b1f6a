"""Changes of several tensors that Ctrl-C does not come into the middle of."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the block, or the function that this decorates, and let it come when all is done.

    Rows that have moved up in some tensors and not in others would be nobody's: in no later step could it be told.
    Python raises KeyboardInterrupt in the main thread alone, so in others there is nothing to hold back. What waits for
    other processes does not belong inside.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: not of Python's making
        yield
        return
    came: list[FrameType | None] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(frame)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, before)
        if came and callable(before):  # itself: an event loop that hears signals elsewhere would hear another twice
            before(signal.SIGINT, came[-1])
        elif came and before == signal.SIG_DFL:
            signal.raise_signal(signal.SIGINT)
