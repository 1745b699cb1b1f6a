"""How methods and numbers are written, in the advice, on the screen and on the page."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DASH = "–"
ARRIVALS = {
    "none": "before",
    "write": "write",
    "imprinting": "imprinting",
    "replay": "replay",
    "added": "added",
    "epoch": "one more epoch",
}
PHRASES = {
    "write": "the write",
    "imprinting": "imprinting",
    "replay": "fine-tuning with replay",
    "epoch": "one more epoch over everything",
}

Trial = Mapping[str, Any]
Lines = Sequence[Mapping[str, Any]]


def titles(trial: Trial) -> dict[str, str]:
    """Each method's title by its name."""
    return {method["name"]: method["title"] for method in trial["methods"]}


def named(trial: Trial, chosen: Mapping[str, str]) -> str:
    """``linear softmax with imprinting``; a method whose classes are only added goes by its title."""
    title, phrase = titles(trial).get(chosen["method"], chosen["method"]), PHRASES.get(chosen["arrival"])
    return f"{title} with {phrase}" if phrase else title


def select(trial: Trial, **wanted: Any) -> list[Mapping[str, Any]]:
    """The lines with these values, on test unless ``part`` says otherwise."""
    wanted = {"part": "test", **wanted}
    return [line for line in trial["lines"] if all(line[name] == value for name, value in wanted.items())]


def values(lines: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """What the lines have under a name, without those that have nothing there."""
    return [line[name] for line in lines if line.get(name) is not None]


def mean(lines: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Over trainings; None where no line has it."""
    found = values(lines, name)
    return statistics.fmean(found) if found else None


def percent(share: float | None) -> str:
    """``81.3%``, or a dash."""
    return DASH if share is None else f"{100 * share:.1f}%"


def points(share: float, sign: bool = False) -> str:
    """A difference of shares in points: ``1.8``, ``−0.4``, with ``sign`` ``+1.8``."""
    rounded = round(100 * share, 1) + 0.0  # no -0.0
    mark = "−" if rounded < 0 else "+" if sign and rounded > 0 else ""
    return f"{mark}{abs(rounded):.1f}"


def interval(part: Mapping[str, Any]) -> str:
    """``95% interval 0.9 to 2.7``."""
    if part["low"] is None:
        return "no interval: too few classes"
    return f"95% interval {points(part['low'])} to {points(part['high'])}"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 class``, ``80 classes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def seconds(value: float | None) -> str:
    """``0.004 s``, ``3.2 s``, ``310 s``, or a dash."""
    if value is None:
        return DASH
    return f"{value:.3f} s" if value < 0.0995 else f"{value:.1f} s" if value < 99.95 else f"{value:,.0f} s"
