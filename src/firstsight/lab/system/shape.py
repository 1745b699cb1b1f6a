"""Of what kind the values of a file are: for JSON that somebody may have edited, cut short or mixed up."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from firstsight.errors import InputError

DEEPEST = 32  # nested values in a file; of our own none has more than ten


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


@dataclass(frozen=True)
class Kind:
    """A value that a file is to have: whether it is so, and what an error says was expected."""

    holds: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Named:
    """A JSON object of any names, whose values all have one shape."""

    each: "Shape"


Shape: TypeAlias = Kind | Named | Mapping[str, Any] | list[Any] | None
"""What a value is to be: a ``Kind``; a dict of shapes by name, of which one that ends in ``?`` may be missing and
others may be there; ``[shape]`` for a list of such; ``Named``; None for anything at all."""

TEXT = Kind(lambda value: isinstance(value, str), "text")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
WHOLE = Kind(lambda value: is_whole(value, 0) and value < 2**63, "a whole number from 0")
NUMBER = Kind(is_finite, "a number")
COUNT = Kind(lambda value: is_finite(value) and value >= 0, "a number from 0")
NUMBER_OR_NULL = Kind(is_number_or_none, "a number")
TEXT_OR_NULL = Kind(lambda value: value is None or isinstance(value, str), "text or null")
OBJECT, LIST = Named(None), [None]


def or_null(shape: Shape) -> Kind:
    """The same, or null."""
    return Kind(lambda value: value is None or fault(value, shape) is None, f"{_expected(shape)} or null")


def check_shape(value: Any, shape: Shape, source: str, mend: str) -> None:
    """Raise InputError, which begins with ``source``, if a value read from there is not of the shape it is to have."""
    if found := fault(value, shape):
        raise InputError(f"{source}: {found}. {mend}")


def fault(value: Any, shape: Shape, name: str = "") -> str | None:
    """The first value that is not as it should be, as "bands[2].tokens is 'x'; expected a whole number"."""
    if shape is None:
        return None
    sound = shape.holds(value) if isinstance(shape, Kind) else isinstance(value, list if _is_list(shape) else dict)
    if not sound:
        return f"{name or 'the whole'} is {shown(value)}; expected {_expected(shape)}"
    if isinstance(shape, list) and isinstance(shape[0], Kind) and all(map(shape[0].holds, value)):
        return None  # there may be a million
    for at, (inner, below) in _inside(value, shape).items():
        own = at if not name or at.startswith("[") else f".{at}"
        if inner is _MISSING:
            return f"{name}{own} is missing; expected {_expected(below)}"
        if found := fault(inner, below, f"{name}{own}"):
            return found
    return None


_MISSING = object()


def _is_list(shape: Shape) -> bool:
    return isinstance(shape, list)


def _expected(shape: Shape) -> str:
    if isinstance(shape, Kind):
        return shape.expected
    return "anything" if shape is None else "a list" if _is_list(shape) else "values by name"


def _inside(value: Any, shape: Shape) -> dict[str, tuple[Any, Shape]]:
    """The values inside of one, each with the shape it is to have."""
    if isinstance(shape, list):
        return {} if shape[0] is None else {f"[{at}]": (one, shape[0]) for at, one in enumerate(value)}
    if isinstance(shape, Named):
        return {} if shape.each is None else {shorten(name, 40): (one, shape.each) for name, one in value.items()}
    if isinstance(shape, Kind) or shape is None:
        return {}
    wanted = {name.removesuffix("?"): below for name, below in shape.items() if name[-1] != "?" or name[:-1] in value}
    return {name: (value.get(name, _MISSING), below) for name, below in wanted.items()}


def check_plain(value: Any) -> None:
    """Raise ValueError unless a value is one that our files hold: every number finite and of no more than 64 bits, all
    text such as UTF-8 or the name of a file can hold, and not nested deeper than ``DEEPEST``."""
    level: list[Any] = [[value]]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for values in level:
            for one in values:
                kind = type(one)
                if kind is dict:
                    below += [one.keys(), one.values()]
                elif kind is list:
                    below.append(one)
                elif kind is str:
                    one.isascii() or one.encode(errors="surrogateescape")  # other halves of a pair are an error
                elif kind is int and not -(2**63) <= one < 2**64:
                    raise ValueError("a whole number has more than 64 bits")
                elif kind is float and not math.isfinite(one):
                    raise ValueError(f"{one} stands where a number is expected")
        if not below:
            return
        level = below
    raise ValueError(f"values are nested more than {DEEPEST} deep")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """A value as Python writes it, for messages: of a long one the beginning and the end."""
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"a whole number of {value.bit_length():,} bits"
    return shorten(_SHORT.repr(value))


def shorten(text: str, most: int = 80) -> str:
    """Text of no more than ``most`` characters: of longer text the beginning."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
