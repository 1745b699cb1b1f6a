"""Ctrl-C and SIGTERM as a wish to end well."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from firstsight.lab.system.progress import say


@contextmanager
def ending_signals() -> Iterator[list[str]]:
    """A list that SIGINT and SIGTERM add their names to. The second SIGINT is a KeyboardInterrupt again."""
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield received
        return

    def handle(number: int, _: object) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say(f"{received[-1]}: ending after this step, with a checkpoint")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
