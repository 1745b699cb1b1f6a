"""What a person sees while long work runs: a bar on a terminal, one line that is kept up to date in a notebook, plain
lines in a log file; never standard output."""

import time
from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any, Literal, Self, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.text import Text

_JOINERS = "\u200c\u200d"  # which Persian and emoji are written with


def shown(text: str, keep: str = "") -> str:
    """``text`` as it may go to a terminal: what would act there, or turn the text around, is written as an escape.

    A name from a corpus, an archive or a folder may hold escape sequences, a NUL, a line break, bidi overrides, or
    bytes that are no UTF-8 (lone surrogates); each becomes ``\\x1b``, ``\\u202e`` and so on, as in Python's own repr.

    Args:
        text: a line.
        keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    harmless = _JOINERS + keep
    return "".join(
        char if char.isprintable() or char in harmless else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def is_utf8(text: str) -> bool:
    """Whether it can be written as UTF-8; the name of a file may hold bytes that cannot (lone surrogates)."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


class PlainConsole(Console):
    """A console for texts that others wrote: no markup, no emoji codes, and only its own escape sequences.

    ``[red]`` in a folder's name is a part of the name. Styles are given as ``Text`` or ``style``. A reader that has
    gone ends what is said, not the work.
    """

    def __init__(self, **options: Any) -> None:
        # Without emoji, whose table a line from a signal's handler could find half imported.
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Plain text, before it is measured for its place in a table."""
        return super().render_str(shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What else is drawn; the console's own controls stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text, keep="\n"), segment.style)

    def on_broken_pipe(self) -> None:
        """rich would end the program."""
        self.quiet = True

    def _unescaped(self) -> IO[str]:
        file = cast(property, Console.file).fget(self)  # type: ignore[misc]
        return cast(IO[str], getattr(file, "unescaped", file))

    file = property(_unescaped, cast(property, Console.file).fset, doc="Below what escapes the lines of all others.")


console = PlainConsole(stderr=True)


_CELLS = 24  # of a bar, as wide as that on a terminal


class Bar:
    """A progress bar with a line of live numbers; where standard error is no terminal, a line every ``every`` s.

    In a notebook it is one line of its cell, written anew up to five times a second.

    Of bytes it shows the amount, the speed and, where the total is known, the time left; of other things how many.
    """

    def __init__(
        self, title: str, total: int | None, start: int = 0, every: float = 30.0, unit: Literal["", "bytes"] = ""
    ) -> None:
        title = shown(title)  # here, before the columns are measured
        counts: list[ProgressColumn] = [MofNCompleteColumn()]
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            *([DownloadColumn(), TransferSpeedColumn()] if unit else counts),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=start, numbers="")
        self._title, self._total, self._every, self._unit = title, total, every, unit
        self._done, self._start, self._began = start, start, time.monotonic()
        self._last = self._began
        self._cell: _Cell | None = None

    def advance(self, more: int, numbers: str = "") -> None:
        """``more`` were done since the last call."""
        self.update(self._done + more, numbers)

    def update(self, done: int, numbers: str = "") -> None:
        """``done`` of ``total``, and the numbers to show beside it."""
        self._done, numbers = done, shown(numbers)
        self._progress.update(self._task, completed=done, numbers=numbers)
        if self._cell:
            self._cell.show(self._line(numbers), now=done == self._total)
        elif not console.is_terminal and time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            console.print(f"{self._title} {self._amount()} {numbers}", soft_wrap=True)

    def _line(self, numbers: str) -> str:
        """The bar as one line of plain text."""
        bar = left = ""
        if self._total:
            filled = round(_CELLS * min(1.0, self._done / self._total))
            bar = f" {'█' * filled}{'░' * (_CELLS - filled)}"
            done = self._done - self._start
            if done and not self._unit and self._done < self._total:
                seconds = (time.monotonic() - self._began) * (self._total - self._done) / done
                left = f"  {duration(seconds)} left"
        return f"{self._title}{bar} {self._amount()}{left}  {numbers}".rstrip()

    def _amount(self) -> str:
        if not self._unit:
            return f"{self._done:,}" if self._total is None else f"{self._done:,}/{self._total:,}"
        speed = max((self._done - self._start) / (time.monotonic() - self._began), 1.0)
        if self._total is None:
            return f"{decimal(self._done)}, {decimal(int(speed))}/s"
        left = max(self._total - self._done, 0) / speed
        return f"{decimal(self._done)} of {decimal(self._total)}, {decimal(int(speed))}/s, {left / 60:.0f} min left"

    def __enter__(self) -> Self:
        self._progress.start()
        if console.is_jupyter and not console.quiet:
            self._cell = _Cell(self._line(""))
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._cell:
            self._cell.end()


class _Cell:
    """A line of text in a notebook, in place of which others are shown."""

    def __init__(self, text: str) -> None:
        display = import_module("IPython.display").display  # which a kernel has, and nobody else needs
        self._handle: Any = display({"text/plain": text}, raw=True, display_id=True)
        self._text, self._shown, self._next = text, text, 0.0

    def show(self, text: str, now: bool = False) -> None:
        self._text = text
        if now or time.monotonic() >= self._next:
            self.end()
            self._next = time.monotonic() + 0.2

    def end(self) -> None:
        """Show what was left out last, so that the line does not stop short."""
        if self._text != self._shown:
            self._handle.update({"text/plain": self._text}, raw=True)
            self._shown = self._text


def readable(perplexity: float) -> str:
    """``1,234.50``; past a million, which the first steps of a run can reach by far, ``1.2e+45``."""
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.1e}"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if 600 <= seconds < 3600:  # nobody's estimate is good to the second
        seconds = 60 * round(seconds / 60)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days} d {hours_of_day} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes >= 10:
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(message: str) -> None:
    """One line to standard error, above a running bar."""
    console.print(message, soft_wrap=True)
