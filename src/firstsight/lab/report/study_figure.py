"""A study's figure: for each data set and regime the differences to the baseline, paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from firstsight.lab.report.study import (
    OVERALL,
    RARE,
    Group,
    Measure,
    format_difference,
    groups,
    in_words,
    markdown,
    sight,
    spread,
)
from firstsight.lab.report.style import INK, LABEL, MUTED, SMALL, STYLE, WIDE, Line, Plot, lines_of, method_of
from firstsight.lab.system.files import atomic_write
from firstsight.lab.system.progress import shown

FAR = 12  # times the median size: past this a value would press all others together on a plain axis
ROW, ABOVE = 0.3, 0.95  # inches for each variant, and for the title and axes around them
SIGHTS = 2.5  # inches of the axes of sights


def study_plot(compared: Sequence[Group]) -> Plot | None:
    """Three axes each group: overall, below 100, and across both by sight. None while nothing can be compared."""
    drawn = [group for group in compared if _compared(group)]
    if not drawn:
        return None
    settings = drawn[0].settings
    methods = {name: method_of(of) for name, of in settings.items()}
    lines, words = lines_of(methods), {variant: shown(name) for variant, name in in_words(settings).items()}
    heights = [height for group in drawn for height in (max(1.5, ABOVE + ROW * len(_compared(group))), SIGHTS)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(2 * len(drawn), 2, height_ratios=heights)
        for row, group in enumerate(drawn):
            overall, rare = (figure.add_subplot(grid[2 * row, column]) for column in range(2))
            sights = figure.add_subplot(grid[2 * row + 1, :])
            _points(overall, group, OVERALL, lines, words)
            _points(rare, group, RARE, lines, words, named=False)
            _sights(sights, group, lines, words)
            name = group.data if group.regime == "default" else f"{group.data}, {group.regime}"
            titles = {
                overall: f"{shown(name)}: perplexity",
                rare: "of words seen 1 to 99 times",
                sights: "NLL in training, by earlier sights of the word",
            }
            for axes, title in titles.items():
                axes.set_title(title, loc="left", fontsize=LABEL, fontweight="bold", color=INK)
    caption = (
        "Differences to the baseline, paired by seed: the mean, one sample deviation each way, below it each seed."
    )
    return Plot("study", caption, figure)


def _compared(group: Group) -> list[str]:
    """The variants that share a seed with the baseline."""
    return [v for v in group.jobs if v != group.baseline and group.differences(v, OVERALL)]


def _points(
    axes: Axes,
    group: Group,
    measure: Measure,
    lines: Mapping[str, Line],
    words: Mapping[str, str],
    named: bool = True,
) -> None:
    found = {variant: group.differences(variant, measure) for variant in _compared(group)}
    for y, (variant, values) in enumerate(found.items()):
        if not values:
            continue
        color, (mean, deviation) = lines[variant].color, spread(values)
        if not math.isnan(deviation):
            axes.plot([mean - deviation, mean + deviation], [y, y], color=color, linewidth=1.2)
            axes.plot(values, [y + 0.25] * len(values), "o", color=color, markersize=3, alpha=0.6, markeredgewidth=0)
        axes.plot([mean], [y], "D", color=color, markersize=4.5)
        text = format_difference(values, measure.percent)
        axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
    axes.set_yticks(range(len(found)), [words[variant] if named else "" for variant in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    sizes = [abs(value) for values in found.values() for value in values]
    note = _scale(axes, "x", max(sizes), statistics.median(sizes))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x")
    axes.set_xlabel(f"to {words[group.baseline]}, percent{note}")


def _sights(axes: Axes, group: Group, lines: Mapping[str, Line], words: Mapping[str, str]) -> None:
    peaks: list[float] = []
    seen = group.sights()
    for variant in _compared(group):
        curve = [(at, *spread(group.differences(variant, sight(k)))) for at, k in enumerate(seen)]
        curve = [point for point in curve if not math.isnan(point[1])]
        if not curve:
            continue
        x, mean, deviation = np.array(curve).T
        band, line = np.where(np.isnan(deviation), 0, deviation), lines[variant]
        axes.plot(x, mean, color=line.color, linestyle=line.dashes, marker="o", markersize=2.5, label=words[variant])
        axes.fill_between(x, mean - band, mean + band, color=line.color, alpha=0.15, linewidth=0)
        peaks.append(float(np.abs(mean).max()))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("times seen before (each to twice as many)")
    labels = [f"{k}" if k < 1000 else f"{k / 1024:.0f}K" for k in seen]
    every = 2 if len(seen) > 9 else 1
    axes.set_xticks(range(len(seen))[::every], labels[::every])
    axes.grid(axis="y")
    if peaks:
        # The usual size would be that of the many buckets where nothing happens: what counts is the smallest peak.
        note = _scale(axes, "y", max(peaks), min(peaks))
        axes.set_ylabel(f"to {words[group.baseline]}, nats{note}")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=2.4)
    else:
        axes.text(0.5, 0.5, "no sights were recorded", transform=axes.transAxes, ha="center", color=MUTED)


def _scale(axes: Axes, which: str, largest: float, usual: float) -> str:
    """A plain axis; where the largest value lies far beyond the usual, one that is logarithmic outside of that.

    Gives what the axis's label has to say of it.
    """
    note, axis = "", axes.xaxis if which == "x" else axes.yaxis
    if largest <= FAR * usual or not usual:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        power = 10.0 ** math.floor(math.log10(2 * usual))
        linear = power * max(factor for factor in (1, 2, 5) if factor * power <= 2 * usual)
        set_scale = axes.set_xscale if which == "x" else axes.set_yscale
        set_scale("symlog", linthresh=linear, linscale=2)
        beyond = [linear * 10**e for e in range(1, 8) if linear * 10**e <= 2 * largest]
        axis.set_major_locator(FixedLocator([side * x for side in (-1, 1) for x in (0, linear / 2, linear, *beyond)]))
        axis.set_minor_locator(NullLocator())
        axes.autoscale_view()  # its margins in the new scale
        note = f" (log past {linear:g})"
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+,.10g}".replace("-", "−") if value else "0"))
    return note


def draw_study(out: Path, study: Mapping[str, Any]) -> None:
    """Write ``table.md`` and, once there is a difference to draw, ``study.png``."""
    with atomic_write(out / "table.md") as file:
        file.write(markdown(study))
    if plot := study_plot(groups(study)):
        plot.save(out)
