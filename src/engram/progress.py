"""What a person sees while long work runs: a bar on a terminal, plain lines in a log file, never standard output."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


class Bar:
    """A progress bar with a line of live numbers; where standard error is no terminal, a line every ``every`` s."""

    def __init__(self, title: str, total: int, start: int = 0, every: float = 30.0) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=start, numbers="")
        self._title, self._total, self._every, self._last = title, total, every, time.monotonic()

    def update(self, done: int, numbers: str = "") -> None:
        """``done`` of ``total``, and the numbers to show beside it."""
        self._progress.update(self._task, completed=done, numbers=numbers)
        if not console.is_terminal and time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            console.print(f"{self._title} {done:,}/{self._total:,} {numbers}", soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def readable(perplexity: float) -> str:
    """``1,234.50``; past a million, which the first steps of a run can reach by far, ``1.2e+45``."""
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.1e}"


def say(message: str) -> None:
    """One line to standard error, above a running bar."""
    console.print(message, soft_wrap=True, markup=False)
