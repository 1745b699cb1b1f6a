"""Settings as frozen dataclasses: each value is checked, named in its error, and goes to and from plain dicts."""

import dataclasses
import sys
import typing
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from firstsight.errors import InputError
from firstsight.lab.system.shape import shorten, shown

_LARGEST = sys.float_info.max


MOST_SEEDS = 10_000  # of anything: a run of each is prepared before the first begins


def check_seeds(seeds: int) -> None:
    """Raise InputError unless there may be so many seeds."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"seeds is {shown(seeds)}; expected 1 or more, and {MOST_SEEDS:,} at most.")


@dataclass(frozen=True)
class Settings:
    """The base of all settings; a subclass adds fields, and to ``__post_init__`` what their values have to be."""

    def __post_init__(self) -> None:
        """Check the kind of every value: names the setting, what was given and what is expected."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if expected := _expected(value, hint):
                raise InputError(f"{field.name} is {shown(value)}; expected {expected}.")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(f"{name} is {shown(getattr(self, name))}; expected {expected}.")

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def changes(self, now: Self, allowed: Collection[str]) -> str:
        """What ``now`` has otherwise and may not, as "lr was 0.1, now 0.2; ..."; empty if nothing."""
        before, after = self.to_dict(), now.to_dict()
        changed = [name for name in before if name not in allowed and before[name] != after[name]]
        return "; ".join(f"{name} was {_said(before[name])}, now {_said(after[name])}" for name in changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "") -> Self:
        """The reverse of ``to_dict``; a name it does not know is an error, never ignored, and one that is left out has
        its default. Errors begin with ``source``, where there is one."""
        begin = f"{source}: " if source else ""
        if not isinstance(values, dict):
            raise InputError(f"{begin}the settings are {shown(values)}; expected values by name.")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            names = shorten(", ".join(unknown))
            raise InputError(f"{begin}unknown setting {names}. Known: {', '.join(sorted(known))}.")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{begin}{error}") from error


def _said(value: Any) -> str:
    return shorten(str(value))


def _expected(value: Any, hint: Any) -> str:
    """What a setting of that type has to be, if the value is something else; else ""."""
    if choices := typing.get_args(hint):
        return "" if value in choices else f"one of {', '.join(map(str, choices))}"
    if hint is bool:
        return "" if isinstance(value, bool) else "true or false"
    if hint is str:
        return "" if isinstance(value, str) and "\0" not in value else "text"
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            return "a whole number"
        return "" if abs(value) < 2**63 else "a whole number below 2^63"
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "a number, like 0.001 or 1.0e-3"
        # An int may be too large for a float, which is an error of its own.
        return "" if -_LARGEST <= value <= _LARGEST else "a finite number"
    return ""
