"""Reads the docstrings' roles and equations for the site: ``:meth:`x``` becomes code, equations TeX between dollars."""

import re
import textwrap
from typing import Any

from griffe import Extension, Object

_MATH = re.compile(r"^( *)\.\. math:: *((?:.+\n?)+)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


def _block(match: re.Match[str]) -> str:
    lines = textwrap.indent(re.sub(r"\n *", "\n", match[2].strip()), match[1])
    return f"\n{match[1]}$$\n{lines}\n{match[1]}$$\n"


class Roles(Extension):
    """Called by mkdocstrings for every object it has read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring in place."""
        if obj.docstring:
            text = _INLINE.sub(lambda match: f"${' '.join(match[1].split())}$", _MATH.sub(_block, obj.docstring.value))
            obj.docstring.value = re.sub(r":\w+:(?=`)", "", text)
