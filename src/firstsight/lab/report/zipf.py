"""The Zipf plot of a corpus: how often its words occur in training, by their rank."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from firstsight.lab.data.bands import BANDS, EDGES
from firstsight.lab.report.plots import compact
from firstsight.lab.report.style import GRID, INK, MUTED, SERIES, SMALL, STYLE, Plot, new_axes

_POINTS = 400  # points of the line: more cannot be seen
_LONGEST_WORD = 14


def zipf_plot(
    name: str, tokens: Sequence[str], counts: npt.NDArray[np.int64], unknown: Mapping[str, float] | None = None
) -> Plot:
    """The training counts of V types, which must not all be 0, over their ranks, both logarithmic.

    Args:
        name: the corpus's name, for the title.
        tokens: the V types.
        counts: int64 [V], their occurrences in training, in any order.
        unknown: the share of ``<unk>`` in each split, for the caption.
    """
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    falling = counts[order]
    size = len(falling)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(f"{name}: training count of a word, by rank")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(0.8, max(10, 1.4 * size))
        axes.set_ylim(0.7, max(10, 12 * int(falling[0])))
        _draw_bands(axes, falling)
        rank = np.unique(np.geomspace(1, size, min(_POINTS, size)).round().astype(int))
        reference = falling[0] / rank
        axes.plot(rank[reference >= 1], reference[reference >= 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(rank, falling[rank - 1], color=SERIES[0], marker="o" if size == 1 else None, markersize=3)
        _name_words(axes, [tokens[i] for i in order], falling)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(base=10, numticks=12))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.set_xlabel("rank of the word\ntop: bands by training count, % of tokens; dashed: Zipf's law")
        axes.set_ylabel("occurrences in training")
    caption = (
        f"{size:,} types that occur in training, {int(falling.sum()):,} tokens. Bands by training count, with their "
        "share of the tokens. Dashed: the count of the first word divided by the rank, which is Zipf's law."
    )
    if unknown:
        caption += " Unknown: " + ", ".join(f"{share:.2%} of {split}" for split, share in unknown.items()) + "."
    return Plot("zipf", caption, figure)


def _draw_bands(axes: Axes, falling: npt.NDArray[np.int64]) -> None:
    """Every other band shaded, each with its name and its share of the training tokens at the top."""
    low, high = axes.get_xlim()
    cuts = [0, *(int(np.count_nonzero(falling >= edge)) for edge in reversed(EDGES[1:])), len(falling)]
    for i, band in enumerate(reversed(BANDS[1:])):
        first, last = cuts[i], cuts[i + 1]
        if first == last:
            continue
        left = first + 0.5 if first else low
        right = last + 0.5 if last < len(falling) else high
        if i % 2:
            axes.axvspan(left, right, color=GRID, alpha=0.55, linewidth=0)
        share = falling[first:last].sum() / falling.sum()
        wide = np.log(right / left) > 0.12 * np.log(high / low)
        axes.annotate(
            f"{band}\n{share:.0%}" if wide else "",
            (np.sqrt(left * right), 0.985),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=SMALL,
            color=MUTED,
            linespacing=1.3,
        )


def _name_words(axes: Axes, words: Sequence[str], falling: npt.NDArray[np.int64]) -> None:
    """A word at every power of ten, or at one of the next few ranks."""
    rank = 1
    while rank <= len(words):
        near = range(rank - 1, min(len(words), rank - 1 + max(5, rank // 10)))
        i = next((i for i in near if _plain(words[i])), None)
        if i is not None:
            above = falling[i] * (i + 1) >= falling[0]  # the dashed line is on the other side
            axes.plot([i + 1], [falling[i]], color=SERIES[0], marker="o", markersize=3)
            axes.annotate(
                words[i],
                (i + 1, falling[i]),
                xytext=(3, 3) if above else (-4, -3),
                textcoords="offset points",
                ha="left" if above else "right",
                va="bottom" if above else "top",
                fontsize=SMALL,
                color=INK,
            )
        rank *= 10


def _plain(word: str) -> bool:
    """Whether it is a word, short, and in letters that the font has."""
    return word.isascii() and word.isalpha() and len(word) <= _LONGEST_WORD
