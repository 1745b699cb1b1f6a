"""Stand-in."""

from typing import Any


def advise(trial: dict[str, Any]) -> str:
    """Stand-in."""
    return str(trial["comparison"]["verdict"])


def paste(trial: dict[str, Any]) -> str:
    """Stand-in."""
    return str(trial["choice"])
