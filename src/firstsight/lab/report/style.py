"""How the report's figures look and how they are written.

They are small: two stand side by side on a page, one fills a phone. None is wider than ``WIDE`` and no text is set
smaller than ``SMALL``, so that in a column of 690 pixels all of it is 11 pixels high or more. A method has one colour
in every figure. Every figure is made once and written twice: as a file, and as SVG whose colours are the page's CSS
variables, so that it follows the page into dark mode. Figures use matplotlib's objects only, never pyplot's global
state.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from firstsight.lab.runs.head import HeadSettings
from firstsight.lab.system.files import atomic_write
from firstsight.lab.system.progress import shown

INK, MUTED, GRID = "#1b1e23", "#5f6670", "#e2e4e8"
# Okabe and Ito's palette (2008), told apart under every common colour blindness; its yellow is too pale for lines.
# Okabe and Ito have black for an eighth; the seventh, a violet, is lighter than their blue.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#8f63c4")
METHODS = {
    "ours": SERIES[0],
    "paper": SERIES[1],
    "softmax": SERIES[2],
    "cosine": SERIES[3],
    "means": SERIES[4],
    "knn": SERIES[5],
    "lda": SERIES[6],
    "logistic": INK,
    "cache": SERIES[5],  # memories never stand beside the rivals of a trial
    "mbpa": SERIES[6],
}
"""The colour of a method, the same in every figure: see :func:`method_of` and :func:`lines_of`."""
DEFAULT_RULES = (HeadSettings().rule, "centered")  # in training both write alike (docs/rule.md)
HEAD_WORDS = {"softmax": "softmax", "paper": "the paper's rule", "ours": "the default rule"}
CSS_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)"} | {
    color: f"var(--series-{i})" for i, color in enumerate(SERIES)
}
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.2, 1.2)))
FADES = (1.0, 0.55, 0.3, 0.8)  # of bars, which have no dashes
SMALL, LABEL, TITLE = 8.0, 8.5, 9.5  # points
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": LABEL,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": TITLE,
    "axes.labelsize": LABEL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": LABEL,
    "ytick.labelsize": LABEL,
    "xtick.major.width": 0.6,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
}
PlotKind = Literal["png", "svg", "pdf"]
WIDTH, HEIGHT = 4.3, 2.9  # inches
WIDE = 6.9  # of several panels
LONGEST_NAME = 44


@dataclass(frozen=True)
class Plot:
    """A figure with the name of its file and a caption that says how to read it."""

    name: str
    caption: str
    figure: Figure

    def save(self, folder: Path, kind: PlotKind = "png") -> Path:
        """Write ``folder/name.kind``, on white and the same each time.

        PNG has twice the screen's usual 96 dots an inch; SVG has its texts as text, PDF has them in its own fonts.
        """
        path = folder / f"{self.name}.{kind}"
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        own = {**STYLE, "svg.hashsalt": self.name, "pdf.fonttype": 42}
        with matplotlib.rc_context(own), atomic_write(path, "wb") as file:
            self.figure.savefig(file, format=kind, dpi=192, facecolor="white", metadata=undated)
        return path

    def svg(self) -> str:
        """The figure as an ``<svg>`` element to stand in an HTML page, its ids unique to the figure."""
        text = io.StringIO()
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
        width, height = 72 * self.figure.get_size_inches()
        body = svg[svg.index(">") :]
        # Only inside tags, so that a run's name stays what it is.
        body = re.sub(r"<[^>]*>", lambda tag: self._own(tag.group()), body)
        return f'<svg role="img" aria-label="{escape(self.caption)}" viewBox="0 0 {width:g} {height:g}"{body}'

    def _own(self, tag: str) -> str:
        """A tag of the SVG with ids that no other figure has, and the page's colours."""
        tag = re.sub(r'\bid="', f'id="{self.name}-', tag)
        tag = re.sub(r'(?:xlink:)?href="#', f'href="#{self.name}-', tag).replace("url(#", f"url(#{self.name}-")
        for color, variable in CSS_VARIABLES.items():
            tag = tag.replace(color, variable)
        return tag


@dataclass(frozen=True)
class Line:
    """The colour and the dashes that stand for one run in every figure; a bar has no dashes, and fades instead."""

    color: str
    dashes: Any
    fade: float = 1.0


def method_of(settings: Mapping[str, Any]) -> str:
    """``softmax``, ``paper`` or ``ours``, or the rule's name: which method a run with these settings is."""
    default = HeadSettings()
    if (head := settings.get("head", default.head)) != "hebbian":
        return str(head)
    rule = settings.get("rule", default.rule)
    return "ours" if rule in DEFAULT_RULES else str(rule)


def lines_of(names: Sequence[str] | Mapping[str, str]) -> dict[str, Line]:
    """A line for each name, in the order given.

    Args:
        names: the lines' names, or the method of each by its name. A method of ``METHODS`` has its colour, any other
            one that is not in use; further lines of one method are dashed. Where there are names alone, or lines all
            or too many of which are of one method, colours tell them apart first.
    """
    methods = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")
    many, own = Counter(methods.values()), {}
    if len(many) == 1 < len(methods) or max(many.values(), default=0) > len(DASHES):
        methods = {name: name for name in methods}
    else:
        own = {method: METHODS[method] for method in many if method in METHODS}
    free = [color for color in SERIES if color not in own.values()] or list(SERIES)
    others = [method for method in dict.fromkeys(methods.values()) if method not in own]
    first = {method: (color, 0) for method, color in own.items()}
    first |= {method: (free[i % len(free)], i // len(free)) for i, method in enumerate(others)}
    lines, used = {}, Counter[str]()
    for name, method in methods.items():
        color, dashes = first[method]
        at = (dashes + used[method]) % len(DASHES)
        lines[name] = Line(color, DASHES[at], FADES[at])
        used[method] += 1
    return lines


def new_axes(title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with its title at the top left, and its only axes; ``height`` in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(shown(title), x=0.012, ha="left", fontsize=TITLE, fontweight="bold")
    return figure, figure.add_subplot()


def add_legend(axes: Axes, lines: Mapping[str, Line], *, bars: bool = False) -> None:
    """Name the runs above the axes; one run alone needs no name."""
    if len(lines) < 2:
        return
    handles = [
        Line2D([], [], color=line.color, linestyle="-", alpha=line.fade, linewidth=5)
        if bars
        else Line2D([], [], color=line.color, linestyle=line.dashes, linewidth=1.8)
        for line in lines.values()
    ]
    columns = legend_columns(lines, WIDTH - 0.6)
    figure = axes.get_figure()
    if isinstance(figure, Figure):  # every further row of names makes the figure higher, not its axes lower
        figure.set_figheight(figure.get_figheight() + 0.17 * (math.ceil(len(lines) / columns) - 1))
    axes.legend(
        handles,
        [_short(name) for name in lines],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.2 if bars else 1.6,
        columnspacing=1.4,
    )


def legend_columns(names: Iterable[str], width: float) -> int:
    """How many names stand side by side in so many inches, the lines before them included."""
    longest = max(len(_short(name)) for name in names)
    return max(1, int(72 * width / (0.53 * LABEL * longest + 32)))


def _short(name: str) -> str:
    name = shown(name)  # the font has no sign for what acts on a terminal either, and SVG may not hold it
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return f" {short}" if short.startswith("_") else short  # matplotlib hides labels that begin with an underscore
