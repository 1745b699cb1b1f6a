"""Memory at test time in the report: the mixtures by band, and the figures of a sweep.

Shape suffixes of arrays: T temperatures, S sizes, W weights, K numbers of neighbours, L rates.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator
from rich.table import Table
from rich.text import Text

from firstsight.errors import InputError
from firstsight.lab.lm.record import Record
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.reading.tuned import best_of, read_tuned
from firstsight.lab.report.elements import figures, section, text_table
from firstsight.lab.report.plots import compact
from firstsight.lab.report.style import INK, SMALL, STYLE, Plot, add_legend, lines_of, new_axes
from firstsight.lab.report.tables import DASH, format_perplexity, format_relative, relative, rows
from firstsight.lab.runs.result import perplexity
from firstsight.lab.system.files import naming, regular_file, sha256
from firstsight.lab.system.manifest import check_file, check_there
from firstsight.lab.system.progress import readable
from firstsight.lab.system.shape import as_dict

LEVELS = 24  # colours of a heat map: few enough for matplotlib to draw their scale without a bitmap
PAPER = {name: {**kind.settings, "weight": kind.weight} for name, kind in MEMORIES.items()}


def memory_section(runs: Sequence[Record]) -> tuple[str, list[Plot]]:
    """The section "Memory at test time" as HTML, and its figures; both empty where there is nothing to tell.

    A table for each run that was evaluated with memories. On the page of one run also the figures of its sweep, if
    that was made with the checkpoint evaluated, and the passage.
    """
    results = {run.name: run.result for run in runs if run.result and variants_of(run.result)}
    body: list[str] = []
    for name, result in results.items():
        body += [f"<h3>{escape(name)}</h3>"] if len(runs) > 1 else []
        body += _table(result)
    if len(runs) > 1:
        return section("Memory at test time", *body), []
    sweep = fitting_sweep(runs[0])
    path = runs[0].folder / "memory" / "sweep.json"
    with naming(path, "the result of firstsight sweep memory", "Make it anew, or delete it."):
        plots = [] if sweep is None else sweep_plots(sweep)
    body += ["<h3>How they do on validation</h3>", figures(plots)] if plots else []
    return section("Memory at test time", *body), plots


def variants_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The mixtures of a result by name, the model alone first, each with perplexity, bands and tokens."""
    variants = (result.get("memory") or {}).get("variants", [])
    return {row["name"]: {**row, "tokens": result["tokens"]} for row in variants}


def told(memory: Mapping[str, Any] | None) -> str:
    """The settings of an evaluation's memories in words; ``none`` without."""
    if not memory:
        return "none"
    parts = []
    for name, kind in MEMORIES.items():
        if settings := as_dict(memory.get(name)):
            values = (f"{setting} {_short(value)}" for setting, value in settings.items())
            parts.append(f"{kind.label}: {', '.join(values)}")
    tuned = memory.get("tuned")
    return "; ".join([*parts, f"tuned by {tuned}" if tuned else "the paper's settings"])


def memory_notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of the perplexities must know: which were measured with a memory of the text before."""
    memories = {name: told(result.get("memory")) for name, result in results.items()}
    if set(memories.values()) <= {"none"}:
        return []
    if len(results) == 1:
        return ["Evaluated with memory at test time; the section on it has the model alone too."]
    alike = "" if len(set(memories.values())) == 1 else ", so the differences are not those of the models alone"
    return [f"Memory at test time{alike}: {'. '.join(f'{name}: {what}' for name, what in memories.items())}."]


def memory_table(result: Mapping[str, Any]) -> Table:
    """The terminal's table: a row for all words and each band, a column for each mixture."""
    header, *cells = _cells(result)
    table = Table(title=Text(f"{result['dataset']}, {result['split']} perplexity with memory"), title_justify="left")
    for i, name in enumerate(name for name in header if name != "difference"):
        table.add_column(Text(name), justify="right" if i else "left")
    for i, row in enumerate(cells):  # a difference stands beside its value: the table would be too wide for a terminal
        pairs = [
            value if value == DASH else f"{value} {change}" for value, change in zip(row[3::2], row[4::2], strict=True)
        ]
        table.add_row(*map(Text, row[:3] + pairs), end_section=i == 0)
    return table


def _cells(result: Mapping[str, Any]) -> list[list[str]]:
    """Rows of text, the header first: name, tokens, the model, then each mixture and its difference to the model."""
    variants = variants_of(result)
    header = ["training count", "tokens", "model"]
    for name in list(variants)[1:]:
        header += [name, "difference"]
    found = [header]
    for label, tokens, values in rows(variants):
        base, *others = values.values()
        row = [label, f"{tokens:,}", format_perplexity(base)]
        for value in others:
            row += [format_perplexity(value), format_relative(relative(value, base))]
        found.append(row)
    return found


def _table(result: Mapping[str, Any]) -> list[str]:
    header, *cells = _cells(result)
    weights = []
    for row in list(variants_of(result).values())[1:]:
        of_kind = {kind.label: row.get(f"{name}_weight") for name, kind in MEMORIES.items()}
        if used := [f"{label} {_short(weight)}" for label, weight in of_kind.items() if weight]:
            weights.append(f"{row['name']}: {', '.join(used)}")
    note = (
        f"Perplexity of the {result['split']} split. Each word is predicted from those before it, which the memories "
        "hold; differences are to the model alone, in percent. Settings: "
        f"{told(result['memory'])}. Weights: {'; '.join(weights) or 'all 0'}."
    )
    header = [name.replace("+ ", "+\u00a0") for name in header]  # no line ends after a plus
    return [text_table("memory", header, cells), f"<p class=note>{escape(note)}</p>"]


def fitting_sweep(run: Record) -> dict[str, Any] | None:
    """The sweep of a run's memories, if there is one of the checkpoint that was evaluated and lies in the folder."""
    path = run.folder / "memory" / "sweep.json"
    check_there(path)
    if not path.exists():
        return None
    sweep = read_tuned(path)
    theirs = sweep["checkpoint"]
    ours = (run.result or {}).get("checkpoint")
    if ours is not None and ours != {key: theirs[key] for key in ("name", "step")}:
        return None
    weights = run.folder / "checkpoints" / f"{Path(theirs['name']).name}.pt"
    if not weights.exists():
        return sweep
    check_file(regular_file(weights, "weights of a run"))
    return sweep if sha256(weights) == theirs["sha256"] else None


def sweep_plots(sweep: Mapping[str, Any]) -> list[Plot]:
    """The figures of a sweep: the cache's grid, and MbPA's by neighbours and rate and by weight."""
    try:
        with matplotlib.rc_context(STYLE):
            plots = [_cache_plot(sweep)]
            if sweep["mbpa"]:
                plots += [_mbpa_plot(sweep), _weight_plot(sweep)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the grids of memory/sweep.json of the run {sweep['run']} are damaged ({error!r}). Make it anew with "
            "firstsight sweep memory, or delete it."
        ) from error
    return plots


def _cache_plot(sweep: Mapping[str, Any]) -> Plot:
    grid = sweep["cache"]["grid"]
    thetas, sizes, weights = ([*dict.fromkeys(row[key] for row in grid)] for key in ("theta", "size", "weight"))
    value_TSW = np.array([perplexity(row["perplexity"]) for row in grid])
    value_TSW = value_TSW.reshape(len(thetas), len(sizes), len(weights))
    figure, axes = new_axes("Cache: perplexity by size and weight")
    axes.remove()
    panels = figure.subplots(1, len(thetas), sharey=True, squeeze=False)[0]
    colors = _colors(value_TSW)
    best = best_of(sweep["cache"]["grid"])
    for panel, theta, value_SW in zip(panels, thetas, value_TSW, strict=True):
        _heat(panel, value_SW, colors)
        panel.set_title(f"theta {theta:g}", fontsize=SMALL, color=INK)
        panel.set_xticks(range(0, len(weights), 3), [f"{weight:g}" for weight in weights[::3]])
        panel.set_yticks(range(len(sizes)), [compact(size) for size in sizes])
        for point, marker in ((PAPER["cache"], "x"), (best, "o")):
            if point["theta"] == theta and point["size"] in sizes and point["weight"] in weights:
                _mark(panel, weights.index(point["weight"]), sizes.index(point["size"]), marker)
    panels[len(panels) // 2].set_xlabel("weight of the cache")
    panels[0].set_ylabel("pairs held")
    bar = figure.colorbar(colors, ax=list(panels), aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    alone = format_perplexity(sweep["cache"]["model"]["perplexity"])
    caption = (
        f"{sweep['tokens']:,} tokens of validation; the model alone reaches {alone}. Ring: the best point. Cross: the "
        "paper's choice."
    )
    return Plot("memory_cache", caption, figure)


def _mbpa_plot(sweep: Mapping[str, Any]) -> Plot:
    mbpa, chosen = sweep["mbpa"], sweep["chosen"]["mbpa"]
    ks, lrs = ([*dict.fromkeys(row[key] for row in mbpa["grid"])] for key in ("k", "lr"))
    value_KL = np.full((len(ks), len(lrs)), np.inf)
    for row in mbpa["grid"]:
        at = ks.index(row["k"]), lrs.index(row["lr"])
        if row["mbpa_weight"] and row["perplexity"] is not None:
            value_KL[at] = min(value_KL[at], row["perplexity"])
    figure, axes = new_axes("Cache and MbPA: perplexity by neighbours and rate", 1.9)
    colors = _colors(value_KL)
    _heat(axes, value_KL, colors)
    for (k, lr), value in np.ndenumerate(value_KL):
        color = _readable(colors, value)
        axes.annotate(readable(value), (lr, k), ha="center", va="center", fontsize=SMALL, color=color)
    for point, marker in ((PAPER["mbpa"], "x"), (chosen, "o")):
        if point["k"] in ks and point["lr"] in lrs:
            _mark(axes, lrs.index(point["lr"]) - 0.36, ks.index(point["k"]), marker)
    axes.set_xticks(range(len(lrs)), [f"{lr:g}" for lr in lrs])
    axes.set_yticks(range(len(ks)), [f"{k:,}" for k in ks])
    axes.set_xlabel("learning rate")
    axes.set_ylabel("neighbours")
    caption = (
        f"One step, on {mbpa['tokens']:,} tokens of validation after {mbpa['first']:,} that only fill the memories; "
        "each at its best weights, that of MbPA above 0. The model alone: "
        f"{format_perplexity(mbpa['model']['perplexity'])}. Ring: the best. Cross: the paper's neighbours and rate."
    )
    return Plot("memory_mbpa", caption, figure)


def _weight_plot(sweep: Mapping[str, Any]) -> Plot:
    mbpa, chosen = sweep["mbpa"], sweep["chosen"]
    here = [row for row in mbpa["grid"] if all(row[key] == chosen["mbpa"][key] for key in ("k", "lr"))]
    cache_weights = sorted({0.0, best_of(here)["cache_weight"]})
    figure, axes = new_axes("What MbPA changes of the perplexity, by its weight", 1.9)
    curves, methods = {}, {}
    for weight in cache_weights:
        points = {row["mbpa_weight"]: row["perplexity"] for row in here if row["cache_weight"] == weight}
        name = f"cache weight {weight:g}" if weight else "without the cache"
        name = f"{name}, from {format_perplexity(points[0])}"
        methods[name] = "cache" if weight else "mbpa"
        curves[name] = {at: relative(value, points[0]) for at, value in sorted(points.items())}
    lines = lines_of(methods)
    axes.axhline(0, color=INK, linewidth=0.8)
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), color=lines[name].color, marker="o", markersize=3)
    axes.set_xlabel("weight of MbPA")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.10g}%".replace("-", "−") if y else "0%"))
    axes.grid(axis="y")
    add_legend(axes, lines)
    caption = f"At {chosen['mbpa']['k']:,} neighbours and a rate of {chosen['mbpa']['lr']:g}; below 0 is better."
    return Plot("memory_mbpa_weight", caption, figure)


def _colors(values: np.ndarray) -> ScalarMappable:
    """The colours of a heat map: dark is low, which is good."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1)
    return ScalarMappable(scale, matplotlib.colormaps["viridis"].resampled(LEVELS))


def _heat(axes: Axes, values: np.ndarray, colors: ScalarMappable) -> None:
    """Fields around whole numbers, the first row at the bottom; one that is not finite stays empty."""
    (low, high), (down, across) = colors.get_clim(), map(np.arange, values.shape)
    axes.pcolormesh(
        across, down, np.ma.masked_invalid(values), cmap=colors.cmap, vmin=low, vmax=high, shading="nearest"
    )
    axes.spines[["left", "bottom"]].set_visible(False)


def _mark(axes: Axes, x: float, y: float, marker: str) -> None:
    """A white mark with a dark edge, to be seen on every field."""
    for color, width in (("#000000", 2.6), ("#ffffff", 1.2)):
        axes.plot(
            [x], [y], marker, markersize=5.5, markerfacecolor="none", markeredgecolor=color, markeredgewidth=width
        )


def _readable(colors: ScalarMappable, value: float) -> str:
    """Black or white, whichever is read on the field of this value."""
    red, green, blue, _ = colors.to_rgba(np.array(value))
    return "#000000" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "#ffffff"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
