"""Turns the site's TeX into MathML when it is built: browsers draw that themselves, and nothing is loaded for it."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(page_html: str, **_: Any) -> str:
    """Called by mkdocs with each page's HTML, where formulas stand as \\(...\\) or \\[...\\]."""
    return _FORMULA.sub(_mathml, page_html)


def _mathml(match: re.Match[str]) -> str:
    tex, block = html.unescape(match[2]).strip()[2:-2].strip(), match[1] == "div"
    if "\\\\" in tex and "\\begin" not in tex:  # several lines, as docstrings have them
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    mathml = convert(tex, display="block" if block else "inline")
    return f'<div class="formula">{mathml}</div>' if block else mathml
