"""The plot of learning curves, from the object that the JSON file of a figure holds."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from firstsight.lab.report.plots import DOTTED, compact, perplexity_axis, token_axis
from firstsight.lab.report.style import (
    INK,
    LABEL,
    MUTED,
    SERIES,
    SMALL,
    STYLE,
    WIDE,
    Line,
    Plot,
    legend_columns,
    lines_of,
    method_of,
)

Found = Mapping[str, Any]

SIDE, HEIGHT = 5.4, 3.3  # inches of a panel, its width at most
ALARM = SERIES[1]
FAR = 4.0
"""So many times the highest first point of the plain softmax, or the highest last point of any line: the axis's end."""
MEASURES = {"valid": "Perplexity of the validation split", "test_sample": "Perplexity of test documents drawn anew"}


def curve_plot(found: Found, name: str) -> Plot | None:
    """Perplexity against training tokens, a panel beside the other; None while no run has a point.

    A line is the mean of its seeds, its band goes from the lowest of them to the highest.
    """
    drawn = [line for _, line in all_lines(found) if line["curve"]]
    if not drawn:
        return None
    styles = lines_of({line["name"]: method_of(line["settings"]) for _, line in all_lines(found)})
    ceiling = _ceiling(drawn)
    shown = [v for line in drawn for v in (*line["curve"]["low"], *line["curve"]["high"]) if v <= ceiling]
    panels = found["panels"]
    with matplotlib.rc_context(STYLE):
        width = min(SIDE * len(panels), WIDE)
        figure = Figure(figsize=(width, HEIGHT + 0.6), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        logarithmic = perplexity_axis(axes[0], shown)
        for at, (cell, panel) in enumerate(zip(axes, panels, strict=True)):
            cell.set_title(panel["title"], loc="left", fontsize=LABEL, fontweight="bold", color=INK)
            for line in panel["lines"]:
                if line["curve"]:
                    _draw_line(cell, line["curve"], styles[line["name"]])
            if missing := "" if at else unfinished(found):
                cell.set_title(missing, loc="right", fontsize=SMALL, fontweight="bold", color=ALARM)
            token_axis(cell)
            cell.set_xlim(0, found["tokens"])
            if at:
                cell.tick_params(labelleft=False)
        axes[0].set_ylabel("perplexity")
        axes[0].set_ylim(min(shown) * 0.97, max(shown) * 1.04)
        extra = _classes(axes[-1], found) if found["second_axis"] else []
        _legend(figure, found, {line["name"]: styles[line["name"]] for line in drawn}, extra)
        note = "\n".join(textwrap.fill(line, int(72 * width / (0.56 * SMALL))) for line in _note(found).split("\n"))
        figure.supxlabel(note, x=0.01, ha="left", fontsize=SMALL, color=MUTED)
    return Plot(name, _caption(found, logarithmic, max(max(line["curve"]["high"]) for line in drawn) > ceiling), figure)


def all_lines(found: Found) -> Iterator[tuple[Found, Found]]:
    """Each line with its panel."""
    for panel in found["panels"]:
        for line in panel["lines"]:
            yield panel, line


def unfinished(found: Found) -> str:
    """What the figure says where not all runs that it wants are behind it: empty where they are."""
    runs = found["runs"]
    total, whole = sum(runs.values()), runs["done"] + runs["diverged"]
    if whole == total:
        return ""
    under_way = f", {runs['under way']} under way" if runs["under way"] else ""
    return f"drawn from {whole} of {total} runs{under_way}"


def _ceiling(drawn: list[Found]) -> float:
    """A line may begin at millions, and would press all others together: where the axis ends."""
    first = [line["curve"]["high"][0] for line in drawn if line["settings"]["head"] == "softmax"]
    last = [line["curve"]["high"][-1] for line in drawn]
    return float(max(FAR * max(first, default=0.0), 1.3 * max(last)))


def _draw_line(axes: Axes, curve: Found, style: Line) -> None:
    x = np.array(curve["tokens"])
    marker = "o" if len(x) == 1 else None  # a line of one point would not be seen
    axes.plot(x, curve["mean"], color=style.color, linestyle=style.dashes, marker=marker, markersize=3)
    if len(curve["seeds"]) > 1:
        axes.fill_between(x, curve["low"], curve["high"], color=style.color, alpha=0.15, linewidth=0)


def _classes(axes: Axes, found: Found) -> list[Line2D]:
    """The shares of classes on an axis to the right, and a mark where all have been seen; gives what the legend has."""
    shares: dict[int, Found] = {
        line["classes"]["T"]: line["classes"] for _, line in all_lines(found) if line["classes"]
    }
    right = axes.twinx()
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    right.set_ylabel("share of classes")
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    handles = []
    for at, (T, one) in enumerate(sorted(shares.items())):
        if not at:
            handles += right.plot(one["tokens"], one["seen"], color=MUTED, linewidth=1.0, label="classes seen, right")
        style: dict[str, Any] = {**DOTTED, "linestyle": "--"} if at else DOTTED
        handles += right.plot(one["tokens"], one["past_T"], color=MUTED, **style, label=f"classes past T = {T}, right")
    if (end := found["data"]["a_pass"]) <= found["tokens"]:
        axes.axvline(end, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
        axes.annotate(
            "all classes seen",
            (end, 0.985),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            fontsize=SMALL,
            color=MUTED,
        )
    return handles


def wall_time_text(line: str, one: Found) -> str:
    """``softmax: 0.61 (0.60 to 0.63)``: the median and the quartiles of a pair's ratio."""
    return f"{line}: {one['median']:.2f} ({one['quartile_1']:.2f} to {one['quartile_3']:.2f})"


def _legend(figure: Figure, found: Found, lines: Mapping[str, Line], extra: list[Line2D]) -> None:
    notes = {name: line_note([line for _, line in all_lines(found) if line["name"] == name]) for name in lines}
    handles = [Line2D([], [], color=line.color, linestyle=line.dashes, linewidth=1.8) for line in lines.values()]
    names = [f"{name}{notes[name]}" for name in lines] + [str(line.get_label()) for line in extra]
    figure.legend(
        [*handles, *extra],
        names,
        loc="outside upper left",
        ncols=legend_columns(names, figure.get_figwidth()),
        frameon=False,
        columnspacing=1.4,
    )


def line_note(lines: list[Found]) -> str:
    """`` (2 of 3 seeds, 1 diverged)``: what of a line's seeds is not whole; of all its panels together."""
    states = [run["state"] for line in lines for run in line["runs"].values()]
    done, diverged = states.count("done"), states.count("diverged")
    parts = [f"{done} of {len(states)} runs"] if done + diverged < len(states) else []
    parts += [f"{diverged} diverged"] if diverged else []
    return f" ({', '.join(parts)})" if parts else ""


def _note(found: Found) -> str:
    """What text, what model and how many seeds, and how long a step takes."""
    data, seeds = found["data"], found["seeds"]
    passes = found["tokens"] / data["a_pass"]
    many = f"{passes:.0f} passes" if passes >= 1.5 else "one pass" if passes > 0.99 else f"{passes:.2f} of a pass"
    band = f"{seeds} seeds: their mean, and from the lowest to the highest" if seeds > 1 else "one seed"
    size = f"{found['panels'][0]['lines'][0]['settings']['hidden']:,} LSTM units"
    text = f"{data['name']}: {data['classes']:,} classes, {many} of {compact(round(data['a_pass'], -3))} tokens; {size}"
    times = [wall_time_text(line, one) for line, one in (found["wall_time"] or {}).items()]
    timed = f"\ntime of a step, by that over all classes: {', '.join(times)}" if times else ""
    return f"{text}; {band}{timed}"


def _caption(found: Found, logarithmic: bool, cut: bool) -> str:
    parts = [f"{MEASURES[found['measure']]} in the course of training"]
    parts += ["logarithmic scale"] if logarithmic else []
    parts += ["what lies above the axis is not shown"] if cut else []
    text = "; ".join(parts) + "."
    if found["second_axis"]:
        text += (
            " On the right: the share of classes that have been seen, and of those past T, which are written no more."
        )
    return text
