"""Changes of several tensors that Ctrl-C does not come into the middle of."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the block, or the function that this decorates, and let it come when all is done.

    Rows that have moved up in some tensors and not in others would be nobody's: in no later step could it be told.
    Python raises KeyboardInterrupt in the main thread alone, so in others there is nothing to hold back.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: not of Python's making
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
