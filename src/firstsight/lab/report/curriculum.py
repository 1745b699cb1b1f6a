"""Figures and table of curricula, from the object that ``curriculum.summary`` makes and the JSON file holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from firstsight.lab.curriculum.loop import MILESTONES
from firstsight.lab.report.style import INK, STYLE, WIDE, Line, Plot, legend_columns, lines_of, method_of
from firstsight.lab.report.tables import DASH, markdown_row

Found = Mapping[str, Any]

SIDE, HEIGHT = 4.3, 2.4  # inches of a panel, its width at most
BAND = "The mean over seeds, and two sample standard deviations each way."


def curriculum_plots(found: Found, name: str) -> list[Plot]:
    """Three figures of the same panels: classes against steps, new classes by presentations, the oldest classes.

    Those without a value to draw are left out.
    """
    runs = [run for panel in found["panels"] for line in panel["lines"] for run in line["runs"].values()]
    ended = " A run that diverged keeps the classes it had." if any(run["reason"] == "diverged" for run in runs) else ""
    captions = {
        "classes": f"Classes introduced so far, against training steps. {BAND}{ended}",
        "new_classes": "Accuracy on a new class against all classes so far, after it was presented k times: the same "
        f"new classes for all lines of a panel. {BAND}",
        "oldest": "Accuracy on the classes of the start, against all classes so far (solid) and among themselves "
        f"(dotted), when as many classes were reached. {BAND} The band is that of the solid line.",
    }
    files = {"classes": name, "new_classes": f"{name}-new-classes", "oldest": f"{name}-oldest"}
    plots = [_grid(found, files[key], key, caption) for key, caption in captions.items()]
    return [plot for plot in plots if plot]


def _grid(found: Found, name: str, key: str, caption: str) -> Plot | None:
    panels = [panel for panel in found["panels"] if any(_drawable(line[key]) for line in panel["lines"])]
    if not panels:
        return None
    draw, x_label, y_label = _GRIDS[key]
    rows = [[one for one in panels if one["row"] == row] for row in dict.fromkeys(panel["row"] for panel in panels)]
    columns = max(map(len, rows))
    lines = lines_of({line["name"]: method_of(line["settings"]) for panel in panels for line in panel["lines"]})
    found = {**found, "most": _most(panels)}
    with matplotlib.rc_context(STYLE):
        width = min(SIDE * columns, WIDE)
        figure = Figure(figsize=(width, HEIGHT * len(rows) + 0.35), layout="constrained")
        axes = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
        for cells, row, below in zip(axes, rows, [*rows[1:], []], strict=True):
            for j, (cell, panel) in enumerate(zip_longest(cells, row)):
                if panel is None:
                    cell.set_visible(False)
                    continue
                for line in panel["lines"]:
                    if _drawable(line[key]):
                        draw(cell, found, line, lines[line["name"]])
                title = f"{panel['row']}:\n{panel['title']}" if panel["row"] else panel["title"]
                cell.set_title(title, loc="left", fontweight="bold", color=INK)
                cell.grid(axis="y")
                cell.set_ylabel("" if j else y_label)
                if j >= len(below):
                    cell.set_xlabel(x_label)
                    cell.tick_params(labelbottom=True)
        drawn = {line["name"] for panel in panels for line in panel["lines"] if _drawable(line[key])}
        _legend(figure, {name: line for name, line in lines.items() if name in drawn}, width)
    return Plot(name, caption, figure)


def _most(panels: Sequence[Found]) -> float:
    """The highest that a band of classes reaches."""
    bands = [line["classes"] for panel in panels for line in panel["lines"] if line["classes"]]
    return max(
        float(mean) + 2 * (deviation or 0)
        for band in bands
        for mean, deviation in zip(band["mean"], band["deviation"], strict=True)
    )


def _drawable(band: Found | None) -> bool:
    return band is not None and any(value is not None for value in band["mean"])


def _draw_band(axes: Axes, x: Sequence[float], band: Found, line: Line, **style: Any) -> None:
    kept = [(at, m, s or 0.0) for at, m, s in zip(x, band["mean"], band["deviation"], strict=True) if m is not None]
    at, mean, deviation = np.array(kept).T
    axes.plot(at, mean, color=line.color, linestyle=line.dashes, **style)
    axes.fill_between(at, mean - 2 * deviation, mean + 2 * deviation, color=line.color, alpha=0.15, linewidth=0)


def _classes(axes: Axes, found: Found, line: Found, style: Line) -> None:
    _draw_band(axes, found["axes"]["step"], line["classes"], style)
    axes.set_xlim(0, found["steps"])
    axes.set_ylim(0, 1.03 * found["most"])
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _new_classes(axes: Axes, found: Found, line: Found, style: Line) -> None:
    presentations = found["axes"]["presentations"]
    _draw_band(axes, range(len(presentations)), line["new_classes"], style, marker="o", markersize=3)
    axes.set_xticks(range(len(presentations)), [str(k) for k in presentations])
    _shares(axes)


def _oldest(axes: Axes, found: Found, line: Found, style: Line) -> None:
    classes = found["axes"]["classes"]
    _draw_band(axes, range(len(classes)), line["oldest"], style, marker="o", markersize=3)
    among = line["oldest_among_themselves"]["mean"]
    kept = {at: value for at, value in enumerate(among) if value is not None}
    axes.plot(list(kept), list(kept.values()), color=style.color, linestyle=(0, (1, 1.4)), linewidth=1.1)
    axes.set_xticks(range(len(classes)), [str(n) for n in classes])
    _shares(axes)


def _shares(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


# Of each figure: what draws a line of a panel, and the names of the axes.
_GRIDS: dict[str, tuple[Callable[[Axes, Found, Found, Line], None], str, str]] = {
    "classes": (_classes, "training steps", "classes"),
    "new_classes": (_new_classes, "presentations of the class", "accuracy, newest classes"),
    "oldest": (_oldest, "classes introduced", "accuracy, classes of the start"),
}


def _legend(figure: Figure, lines: Mapping[str, Line], width: float) -> None:
    if len(lines) < 2:
        return
    handles = [Line2D([], [], color=line.color, linestyle=line.dashes, linewidth=1.8) for line in lines.values()]
    figure.legend(
        handles,
        list(lines),
        loc="outside upper left",
        ncols=legend_columns(lines, width),
        frameon=False,
        labelcolor=INK,
        columnspacing=1.4,
    )


def pace_rows(found: Found) -> list[list[str]]:
    """A head, and a row for each line of each panel: steps to 100, 200 and 400 classes, and classes at the end."""
    rows = [["", *[f"steps to {n}" for n in MILESTONES], "classes at the end"]]
    for name, line in _named(found):
        rows.append([name, *[_steps(line, str(n)) for n in MILESTONES], _mean(line["classes"], -1, 1)])
    return rows


def binding_rows(found: Found) -> list[list[str]]:
    """A head, and a row for each line of each panel: accuracies in percent.

    "new k": on new classes, presented k times; "old n": on the classes of the start when n were reached.
    """
    presentations, classes = found["axes"]["presentations"], found["axes"]["classes"]
    rows = [["", *[f"new {k}" for k in presentations], *[f"old {n}" for n in classes]]]
    for name, line in _named(found):
        new = [_mean(line["new_classes"], at, 100) for at in range(len(presentations))]
        rows.append([name, *new, *[_mean(line["oldest"], at, 100) for at in range(len(classes))]])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A head and rows as a Markdown table."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join([*map(markdown_row, [head, rule, *body]), ""])


def _named(found: Found) -> Iterator[tuple[str, Found]]:
    """Each line with its name, and its panel's if there are several."""
    several = len(found["panels"]) > 1
    for panel in found["panels"]:
        for line in panel["lines"]:
            parts = (panel["row"], panel["title"], line["name"]) if several else (line["name"],)
            yield ", ".join(part for part in parts if part), line


def _steps(line: Found, milestone: str) -> str:
    """``232 (0.86, 0.80 to 0.95), 9 of 10``: median, the paired ratio's median and range, how many seeds got there."""
    reached = sum(run["steps_to"][milestone] is not None for run in line["runs"].values())
    median = line["median_steps"][milestone]
    if median is None:
        return f"{reached} of {len(line['runs'])}" if line["runs"] else DASH
    text = f"{median:.0f}"
    ratio = line.get("ratios", {}).get(milestone)
    if ratio and ratio["median"] is None and ratio["only_other"]:
        text += " (only this)"
    elif ratio and ratio["median"] is not None:
        high = f"{ratio['high']:.2f}" if ratio["high"] is not None else "never"
        low = f"{ratio['low']:.2f}" if ratio["low"] is not None else "only this"
        text += f" ({ratio['median']:.2f}, {low} to {high})"
    return text if reached == len(line["runs"]) else f"{text}, {reached} of {len(line['runs'])}"


def _mean(band: Found | None, at: int, times: float) -> str:
    """``79 ± 5``, and how many seeds have a value where not all do."""
    if band is None or band["mean"][at] is None:
        return DASH
    mean, deviation = band["mean"][at], band["deviation"][at]
    text = f"{times * mean:.0f}" if deviation is None else f"{times * mean:.0f} ± {times * deviation:.0f}"
    seeds = band.get("seeds", {})
    have = sum(row[at] is not None for row in seeds.values())
    return text if have == len(seeds) else f"{text}, {have} of {len(seeds)}"
