"""Of what kind the values of a file are: for JSON that somebody may have edited, cut short or mixed up."""

import math
from typing import Any


def is_number(value: Any) -> bool:
    """A number, finite or not; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_number_or_none(value: Any) -> bool:
    """A number, or the null that stands for one that JSON cannot hold."""
    return value is None or is_number(value)


def is_finite(value: Any) -> bool:
    """A finite number."""
    return is_number(value) and math.isfinite(value)


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """A whole number, ``least`` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_share(value: Any, slack: float = 0.0) -> bool:
    """A number from 0 to 1, with ``slack`` above for what was rounded."""
    return is_number(value) and 0 <= value <= 1 + slack


def as_dict(value: Any) -> dict[str, Any]:
    """The value, or an empty one where it is of another kind."""
    return value if isinstance(value, dict) else {}


def finite_or_none(value: float | None) -> float | None:
    """What JSON can hold of a number."""
    return value if value is not None and math.isfinite(value) else None
