"""Settings as frozen dataclasses: each value is checked, named in its error, and goes to and from plain dicts."""

import dataclasses
import math
import typing
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from firstsight.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The base of all settings; a subclass adds fields, and to ``__post_init__`` what their values have to be."""

    def __post_init__(self) -> None:
        """Check the kind of every value: names the setting, what was given and what is expected."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            choices = typing.get_args(hint)
            if choices and value not in choices:
                raise InputError(f"{field.name} is {value!r}; expected one of {', '.join(map(str, choices))}.")
            if hint is bool and not isinstance(value, bool):
                raise InputError(f"{field.name} is {value!r}; expected true or false.")
            if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f"{field.name} is {value!r}; expected a whole number.")
            if hint is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise InputError(f"{field.name} is {value!r}; expected a number, like 0.001 or 1.0e-3.")
            if hint is float and not math.isfinite(value):
                raise InputError(f"{field.name} is {value!r}; expected a finite number.")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(f"{name} is {getattr(self, name)!r}; expected {expected}.")

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def changes(self, now: Self, allowed: Collection[str]) -> str:
        """What ``now`` has otherwise and may not, as "lr was 0.1, now 0.2; ..."; empty if nothing."""
        before, after = self.to_dict(), now.to_dict()
        changed = [name for name in before if name not in allowed and before[name] != after[name]]
        return "; ".join(f"{name} was {before[name]}, now {after[name]}" for name in changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "the settings") -> Self:
        """The reverse of ``to_dict``; a name it does not know is an error, never ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            raise InputError(f"{source}: unknown setting {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
        return cls(**values)
