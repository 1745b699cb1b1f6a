"""Reads the docstrings' roles and equations for the site: ``:meth:`x``` becomes code, an equation a block of TeX."""

import re
import textwrap
from typing import Any

from griffe import Extension, Object

_MATH = re.compile(r"^( *)\.\. math:: *((?:.+\n?)+)", re.MULTILINE)


def _block(match: re.Match[str]) -> str:
    lines = textwrap.indent(re.sub(r"\n *", "\n", match[2].strip()), match[1])
    return f"{match[1]}```tex\n{lines}\n{match[1]}```\n"


class Roles(Extension):
    """Called by mkdocstrings for every object it has read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring in place."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:(?=`)", "", _MATH.sub(_block, obj.docstring.value))
