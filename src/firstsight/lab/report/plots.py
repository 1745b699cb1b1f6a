"""Which figures a report has: learning curves, of runs and of classes, perplexity by band, and the classes seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from firstsight.lab.lm.record import Record
from firstsight.lab.report.sights import SightCurves
from firstsight.lab.report.style import (
    HEIGHT,
    INK,
    SMALL,
    STYLE,
    Line,
    Plot,
    add_legend,
    lines_of,
    method_of,
    new_axes,
)
from firstsight.lab.report.tables import Results, baseline, format_perplexity, format_relative, relative, rows

MOST_SIGHT_TICKS = 13
DOTTED = {"linestyle": (0, (1, 1.4)), "linewidth": 1.1}


def make_plots(runs: Sequence[Record]) -> list[Plot]:
    """The figures that the runs have numbers for but the sight curves, each run in its method's colour throughout."""
    lines = _lines(runs)
    results = {run.name: run.result for run in runs if run.result}
    trained = [run for run in runs if run.metrics]
    with_classes = [run for run in trained if series(run, "classes_seen")[1]]
    plots = []
    with matplotlib.rc_context(STYLE):
        if trained:
            plots += [_validation(trained, lines), _loss(trained, lines)]
        if results:
            plots.append(_bands(results, lines))
        if len(results) > 1:
            plots.append(_differences(results, lines))
        if with_classes:
            plots.append(_classes(with_classes, lines))
    return plots


def make_sight_plots(runs: Sequence[Record], sights: SightCurves | None) -> list[Plot]:
    """The sight curves, and their differences where runs were trained on the same targets; colours as in the others."""
    if sights is None:
        return []
    lines = _lines(runs)
    with matplotlib.rc_context(STYLE):
        plots = [_sight_curves(sights, lines)]
        if sights.differences:
            plots.append(_sight_differences(sights, lines))
    return plots


def _lines(runs: Sequence[Record]) -> dict[str, Line]:
    return lines_of({run.name: method_of(run.config.to_dict()) for run in runs})


def series(run: Record, name: str) -> tuple[list[float], list[float]]:
    """Tokens trained and the values of ``name``, of the validations where it is a finite number."""
    points = [(line["tokens"], line.get(name)) for line in run.metrics]
    kept = [(x, y) for x, y in points if isinstance(y, (int, float)) and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _draw(axes: Axes, runs: Sequence[Record], lines: Mapping[str, Line], name: str, **style: Any) -> list[float]:
    """One line a run; returns all values drawn."""
    drawn: list[float] = []
    for run in runs:
        x, y = series(run, name)
        line = lines[run.name]
        marker = "o" if len(x) == 1 else None  # a line of one point would not be seen
        axes.plot(x, y, **{"color": line.color, "linestyle": line.dashes, "marker": marker, "markersize": 3, **style})
        drawn += y
    return drawn


def compact(count: float) -> str:
    """``500``, ``20K``, ``1.5M``, ``4B``: a count as an axis writes it."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(count) >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def _finish(axes: Axes, runs: Sequence[Record], lines: Mapping[str, Line]) -> None:
    """The axis of tokens, and the names of the runs."""
    token_axis(axes)
    add_legend(axes, {run.name: lines[run.name] for run in runs})


def token_axis(axes: Axes) -> None:
    """The horizontal axis of learning curves."""
    axes.set_xlabel("tokens trained")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.grid(axis="y")


def perplexity_axis(axes: Axes, values: Sequence[float]) -> bool:
    """The vertical axis for these perplexities; whether it is logarithmic.

    A short range is read better on a plain axis, where equal distances are equal differences.
    """
    logarithmic = bool(values) and max(values) > 3 * min(values)
    if logarithmic:
        axes.set_yscale("log")
        span = max(values) / min(values)
        subs = (1, 1.5, 2, 3, 4, 5, 7) if span < 10 else (1, 2, 5) if span < 300 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    return logarithmic


def _validation(runs: Sequence[Record], lines: Mapping[str, Line]) -> Plot:
    figure, axes = new_axes("Validation perplexity")
    values = _draw(axes, runs, lines, "valid_perplexity")
    scale = "; logarithmic scale" if perplexity_axis(axes, values) else ""
    _finish(axes, runs, lines)
    return Plot("validation", f"Perplexity of the validation split in the course of training{scale}.", figure)


def _loss(runs: Sequence[Record], lines: Mapping[str, Line]) -> Plot:
    figure, axes = new_axes("Loss, nats per token")
    _draw(axes, runs, lines, "valid_loss")
    _draw(axes, runs, lines, "train_loss", **DOTTED)
    _finish(axes, runs, lines)
    caption = "Validation solid. Training dotted: the mean since the validation before, measured with dropout."
    return Plot("loss", caption, figure)


def _classes(runs: Sequence[Record], lines: Mapping[str, Line]) -> Plot:
    figure, axes = new_axes("Share of the vocabulary seen in training")
    caption = "Seen at least once solid. Seen T times dotted: a Hebbian head no longer writes the rows of these words."
    names = ("classes_seen", "classes_past_T")
    same = len(runs) > 1 and all(series(run, name) == series(runs[0], name) for run in runs for name in names)
    if same:  # the lines would hide one another
        runs, lines = runs[:1], {runs[0].name: Line(INK, "-")}
        caption += " The same for all runs."
    _draw(axes, runs, lines, "classes_seen")
    _draw(axes, runs, lines, "classes_past_T", **DOTTED)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    _finish(axes, runs, lines)
    return Plot("classes", caption, figure)


def _bar_axes(title: str, labels: Sequence[str], runs: int) -> tuple[Figure, Axes]:
    """Axes with a row for each label, the first at the top."""
    figure, axes = new_axes(title, max(HEIGHT, 0.9 + 0.19 * runs * len(labels)))
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure, axes


def _draw_bars(
    axes: Axes, columns: Mapping[str, Sequence[float]], lines: Mapping[str, Line], write: Callable[[float], str]
) -> None:
    """Each run's bars, grouped by row, the value written at a bar's end; what is not finite has a text and no bar."""
    step = min(0.36, 0.8 / len(columns))
    for i, (name, column) in enumerate(columns.items()):
        for row, value in enumerate(column):
            y = row + step * (i - (len(columns) - 1) / 2)
            length = value if math.isfinite(value) else 0
            if length:
                axes.barh(y, length, height=0.88 * step, color=lines[name].color, alpha=lines[name].fade)
            left = length < 0
            axes.annotate(
                write(value),
                (length if length else axes.get_xlim()[0] * (axes.get_xscale() == "log"), y),
                xytext=(-3 if left else 3, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center_baseline",
                fontsize=SMALL,
            )
    add_legend(axes, {name: lines[name] for name in columns}, bars=True)


def _bands(results: Results, lines: Mapping[str, Line]) -> Plot:
    table = rows(results)
    split = next(iter(results.values()))["split"]
    figure, axes = _bar_axes(f"Perplexity, {split} split, by training count", [row[0] for row in table], len(results))
    columns = {name: [values[name] for _, _, values in table] for name in results}
    top = max((v for column in columns.values() for v in column if math.isfinite(v)), default=10.0)
    axes.set_xscale("log")
    axes.set_xlim(1, min(max(10.0, top), 1e200) ** 1.22)  # room for the value of the longest bar, short of overflow
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e6 else compact(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    _draw_bars(axes, columns, lines, format_perplexity)
    caption = "Words grouped by how often they occur in training. Logarithmic scale from 1, a perfect guess."
    return Plot("bands", caption, figure)


def _differences(results: Results, lines: Mapping[str, Line]) -> Plot:
    base = baseline(results)
    table = rows(results)
    others = [name for name in results if name != base]
    figure, axes = _bar_axes(f"Difference to {base}", [row[0] for row in table], len(others))
    columns = {name: [relative(values[name], values[base]) for _, _, values in table] for name in others}
    finite = [v for column in columns.values() for v in column if math.isfinite(v)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    room = 0.22 * max(high - low, 1.0)  # for the values
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}%".replace("-", "−") if value else "0%"))
    axes.axvline(0, color=INK, linewidth=0.8)
    _draw_bars(axes, columns, lines, format_relative)
    caption = f"Perplexity in percent of that of {base}, less 100: a bar to the left is better."
    return Plot("difference", caption, figure)


def _draw_sights(
    axes: Axes, sights: SightCurves, curves: Mapping[str, Mapping[int, float]], lines: Mapping[str, Line]
) -> None:
    """At equal steps from 0 (never seen) to 1, 2, 4, ...; with many, every second or third power of two is named."""
    for name, curve in curves.items():
        x = [seen.bit_length() for seen in curve]  # 0, 1, 2, 4, 8, ... stand at 0, 1, 2, 3, 4, ...
        line = lines[name]
        axes.plot(x, list(curve.values()), color=line.color, linestyle=line.dashes, linewidth=1.1, marker="o", ms=2.2)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    last = sights.seen[-1].bit_length()
    stride = math.ceil(last / MOST_SIGHT_TICKS)
    ticks = [0, *range(1, last + 1, stride)] if last else [0]
    axes.set_xticks(ticks, [_power_of_two(tick) for tick in ticks])
    axes.set_xlim(-0.4, last + 0.4)
    axes.set_xlabel("times the word had been seen before")
    axes.grid(axis="y")
    add_legend(axes, {name: lines[name] for name in curves})


def _power_of_two(position: int) -> str:
    """``0``, ``1``, ``2``, ``4``, ... ``512``, ``1K``, ``2K``, ... ``1M``: a place on the axis of sights."""
    if position == 0:
        return "0"
    thousands, rest = divmod(position - 1, 10)
    return f"{2**rest}{('', 'K', 'M', 'B')[thousands]}" if thousands < 4 else f"{2 ** (position - 1):.0e}"


def _sight_curves(sights: SightCurves, lines: Mapping[str, Line]) -> Plot:
    figure, axes = new_axes("Loss by times seen before, nats per token")
    curves = {name: {seen: nll for seen, (_, nll) in curve.items()} for name, curve in sights.curves.items()}
    _draw_sights(axes, sights, curves, lines)
    caption = (
        "Mean loss of the training targets, by how often their word had been a target in the steps before: 0 is never, "
        "k is k to 2k − 1 times. Measured in training, before each step and with dropout."
    )
    if len(curves) > 1:
        caption += " Compare the runs at one place: from left to right the words change too, to more frequent ones."
    if sights.unlike:
        names = "; ".join(f"{name} ({what})" for name, what in sights.unlike.items())
        caption += f" Not trained on the same targets as {sights.base}, so without a difference: {names}."
    return Plot("sights", caption, figure)


def _sight_differences(sights: SightCurves, lines: Mapping[str, Line]) -> Plot:
    figure, axes = new_axes(f"Difference in nats, to {sights.base}")
    axes.axhline(0, color=INK, linewidth=0.8)
    _draw_sights(axes, sights, sights.differences, lines)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.10g}".replace("-", "−") if y else "0"))
    caption = (
        f"The loss by times seen before, less that of {sights.base}: below the line is better. Each place compares "
        "the runs on the very same targets."
    )
    return Plot("sights_difference", caption, figure)
