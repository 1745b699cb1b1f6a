"""The figures of a trial, from ``trial.json``: the comparison, curves, bars by frequency, after one more epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from firstsight.lab.classify.judgement.compare import RARE
from firstsight.lab.classify.judgement.wording import ARRIVALS, mean, named, points, select, titles
from firstsight.lab.classify.settings import SHOTS
from firstsight.lab.report.style import (
    INK,
    METHODS,
    MUTED,
    SERIES,
    SMALL,
    STYLE,
    Line,
    Plot,
    add_legend,
    lines_of,
    new_axes,
)
from firstsight.lab.report.trial.table import pairs

Trial = Mapping[str, Any]
Way = tuple[str, str]
"""A method, and how classes come to it."""

BANDS = {"below_5": "below 5", "5_to_20": "5 to 20", "above_20": "above 20"}
PARTS = {"mixed": "mixed", "new": "new classes", "old": "old classes", "rare": f"old, below {RARE}"}


def trial_plots(trial: Trial) -> list[Plot]:
    """All figures that have something to draw."""
    shown = _shown(trial)
    lines = dict(zip(shown, lines_of({", ".join(way): _family(way[0]) for way in shown}).values(), strict=True))
    with matplotlib.rc_context(STYLE):
        drawn = [
            _comparison(trial),
            _curves(trial, shown, lines),
            _shots(trial, shown, lines),
            _bands(trial, shown, lines),
            _epoch(trial, shown, lines),
        ]
    return [plot for plot in drawn if plot]


def _shown(trial: Trial) -> list[Way]:
    """As many ways as there are colours: the two compared, the two without training, then other methods' best."""
    questions = [trial, trial["at_once"]] if trial.get("at_once") else [trial]
    chosen = [one["choice"][side] for one in questions for side in ("ours", "rival")]
    found = list(dict.fromkeys((one["method"], one["arrival"]) for one in chosen))
    for method, arrival in pairs(trial):
        if method not in {name for name, _ in found}:
            found.append((method, arrival))
    return found[: len(SERIES)]


def _family(method: str) -> str:
    """Whose colour a method has: ``softmax-weights`` that of ``softmax``, ``sight-adjusted`` ours."""
    name = method.split("-")[0]
    return "ours" if name == "sight" else name if name in METHODS else method


def _legend(axes: Axes, lines: Mapping[Way, Line], trial: Trial, *, bars: bool = False) -> None:
    add_legend(axes, {_name(trial, way): line for way, line in lines.items()}, bars=bars)


def _name(trial: Trial, way: Way) -> str:
    title = titles(trial).get(way[0], way[0])
    return title if way[1] == "added" else f"{title}, {ARRIVALS[way[1]]}"


def _look(line: Line) -> dict[str, Any]:
    return {"color": line.color, "linestyle": line.dashes}


def _percent(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))


def _comparison(trial: Trial) -> Plot:
    comparison = trial["comparison"]
    figure, axes = new_axes("Ours against the best rival", height=2.2)
    found = {name: comparison[key] for key, name in PARTS.items() if comparison[key]}
    for y, (name, part) in enumerate(found.items()):
        tested = name == "mixed"
        color = INK if tested else MUTED
        if part["low"] is not None:
            axes.plot([100 * part["low"], 100 * part["high"]], [y, y], color=color, linewidth=2.2 if tested else 1.3)
        axes.plot([100 * part["difference"]], [y], "D" if tested else "o", color=color, markersize=6 if tested else 4.5)
        axes.annotate(
            points(part["difference"], sign=True),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL,
            color=color,
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    axes.set_xlabel("difference in points: to the right, ours is better")
    caption = (
        f"{named(trial, trial['choice']['ours'])} less {named(trial, trial['choice']['rival'])}, accuracy on test, "
        "with 95% intervals by a bootstrap over classes. The verdict rests on the first line; the others describe."
    )
    return Plot("comparison", caption, figure)


def _curves(trial: Trial, shown: Sequence[Way], lines: Mapping[Way, Line]) -> Plot:
    figure, axes = new_axes("New classes against old, as examples come", height=3.3)
    for method, arrival in shown:
        found = [(k, *_new_and_old(trial, method, arrival, k)) for k in SHOTS]
        kept = [(k, new, old) for k, new, old in found if new is not None and old is not None]
        if not kept:
            continue
        k, new, old = np.array(kept).T
        line = lines[method, arrival]
        axes.plot(100 * new, 100 * old, **_look(line))
        axes.scatter(100 * new, 100 * old, s=6 + 5 * k, color=line.color, linewidths=0, zorder=3)
    axes.set_xlabel("accuracy on new classes")
    axes.set_ylabel("accuracy on old classes")
    _percent(axes.xaxis)
    _percent(axes.yaxis)
    axes.grid()
    _legend(axes, lines, trial)
    counts = ", ".join(map(str, SHOTS))
    return Plot(
        "curves",
        f"Accuracy on test where all classes, old and new, are candidates; {counts} examples of each new class, the "
        "larger the dot the more. Up and to the right is better.",
        figure,
    )


def _new_and_old(trial: Trial, method: str, arrival: str, k: int) -> tuple[float | None, float | None]:
    found = select(trial, method=method, arrival=arrival, shots=k)
    return mean(found, "new_micro"), mean(found, "old_micro")


def _shots(trial: Trial, shown: Sequence[Way], lines: Mapping[Way, Line]) -> Plot:
    figure, axes = new_axes("New classes, by examples shown", height=3.3)
    for method, arrival in shown:
        y = [_new_and_old(trial, method, arrival, k)[0] for k in SHOTS]
        kept = [(at, 100 * value) for at, value in enumerate(y) if value is not None]
        if kept:
            axes.plot(*zip(*kept, strict=True), **_look(lines[method, arrival]), marker="o", markersize=3.5)
    axes.set_xticks(range(len(SHOTS)), [str(k) for k in SHOTS])
    axes.set_xlabel("examples of each new class")
    axes.set_ylabel("accuracy on new classes")
    _percent(axes.yaxis)
    axes.grid(axis="y")
    _legend(axes, lines, trial)
    caption = "Accuracy on queries of new classes, old classes being candidates too; the mean over trainings."
    return Plot("shots", caption, figure)


def _bands(trial: Trial, shown: Sequence[Way], lines: Mapping[Way, Line]) -> Plot | None:
    shots = trial["choice"]["shots"]
    found = {
        (method, arrival): [
            mean([line["bands"] for line in select(trial, method=method, arrival=arrival, shots=shots)], band)
            for band in BANDS
        ]
        for method, arrival in shown
    }
    kept = [i for i in range(len(BANDS)) if any(row[i] is not None for row in found.values())]
    if not kept:
        return None
    figure, axes = new_axes("Old classes, by how many examples training had", height=3.1)
    width = 0.8 / len(found)
    for j, (way, row) in enumerate(found.items()):
        at = [x - 0.4 + width * (j + 0.5) for x in range(len(kept))]
        heights = [100 * (row[i] or 0.0) for i in kept]
        axes.bar(at, heights, width=0.88 * width, color=lines[way].color, alpha=lines[way].fade)
    axes.set_xticks(range(len(kept)), [list(BANDS.values())[i] for i in kept])
    axes.set_xlabel("training examples of the class")
    axes.set_ylabel("accuracy on old classes")
    _percent(axes.yaxis)
    axes.grid(axis="y")
    _legend(axes, lines, trial, bars=True)
    caption = f"Accuracy on queries of old classes once the new ones have come with {shots} examples each."
    return Plot("bands", caption, figure)


def _epoch(trial: Trial, shown: Sequence[Way], lines: Mapping[Way, Line]) -> Plot | None:
    shots = trial["choice"]["shots"]
    found = []
    for method, arrival in shown:
        before, after = (
            mean(select(trial, method=method, arrival=way, shots=shots), "mixed") for way in (arrival, "epoch")
        )
        if before is not None and after is not None:
            found.append(((method, arrival), 100 * before, 100 * after))
    if not found:
        return None
    figure, axes = new_axes("At once, and after one more epoch", height=1.3 + 0.26 * len(found))
    for y, (way, before, after) in enumerate(found):
        axes.plot([before, after], [y, y], color=lines[way].color, linewidth=1.4)
        axes.plot([before], [y], "o", color=lines[way].color, markersize=5)
        axes.plot([after], [y], "|", color=lines[way].color, markersize=11, markeredgewidth=2.2)
    axes.set_yticks(range(len(found)), [_name(trial, way) for way, _, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("accuracy, mixed")
    _percent(axes.xaxis)
    axes.grid(axis="x")
    caption = (
        f"Accuracy under the stated mix with {shots} examples of each new class: as it is at once (dot), and after one "
        "more epoch over everything, the new examples too (stroke)."
    )
    return Plot("epoch", caption, figure)
