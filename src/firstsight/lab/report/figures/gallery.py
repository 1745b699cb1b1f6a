"""A page of all figures of the paper, and of its two tables, from the JSON files that are there."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.report.curriculum import curriculum_plots, pace_rows
from firstsight.lab.report.elements import figures, section, small_print, text_table, write_page
from firstsight.lab.report.figures.draw import Found, curve_plot, unfinished, wall_time_text
from firstsight.lab.report.figures.models import band_rows, model_rows, runs_by_data, split_of
from firstsight.lab.report.figures.tables import core_hours, end_rows
from firstsight.lab.report.style import Plot
from firstsight.lab.system.files import naming, read_json
from firstsight.lab.system.shape import COUNT, OBJECT, TEXT, TEXT_OR_NULL, WHOLE, Kind, Shape, or_null

SAYS = {
    "10": "From 30 classes on, 5 more come whenever total test error, which we read as accuracy, exceeds 60%. T = 10, "
    "gamma = 0.1; AdaGrad 0.08, RMSProp 0.006 and Adam 0.006, chosen with the plain softmax; ten seeds.",
    "11": "Learning rates of RMSProp of 0.006 to 0.008 are similarly fast, and stable; larger ones break down.",
}
"""What the appendix says of the figures of Omniglot; the others' JSON files say it of themselves."""
_WHAT, _MEND = "the numbers of a figure", "Make it anew: firstsight figure N."
_PANELS = Kind(lambda value: isinstance(value, list) and value != [], "a list of panels")
_SHAPE: dict[str, Shape] = {"title": TEXT, "panels": _PANELS, "seeds": WHOLE, "core_seconds": COUNT, "run_by": OBJECT}
_SHAPE |= {"made_by": OBJECT, "says?": TEXT_OR_NULL, "data?": OBJECT, "wall_time?": or_null(OBJECT)}


def write_gallery(names: Mapping[str, str], out: Path, page: str) -> dict[str, Any]:
    """Write ``out/PAGE`` from ``out/NAME.json`` of the figures that are there.

    Args:
        names: of the figures' files by number, in the order of the page.
        out: their folder.
        page: name of the file.

    Returns:
        ``{"page": path, "figures": those on it, "missing": those not there}``.

    Raises:
        InputError: there is none at all, or one of the files is not what a figure leaves.
    """
    found = {number: _read(out / f"{name}.json") for number, name in names.items() if (out / f"{name}.json").exists()}
    missing = [number for number in names if number not in found]
    if not found:
        raise InputError(
            f"{out}: there is no figure here, such as {next(iter(names.values()))}.json. Make one with firstsight "
            f"figure {next(iter(names))} --out {out}, or name the folder that holds them with --out."
        )
    parts = []
    for number, one in found.items():
        with naming(out / f"{names[number]}.json", _WHAT, _MEND):
            parts.append(_figure(number, one, names[number]))
    curves = [one for one in found.values() if "data" in one]
    with naming(out, "a folder of figures", _MEND):
        notes, tables = _notes(found, missing, names), _tables(curves)
    write_page(
        out / page,
        "The paper's figures and tables",
        f"{len(found)} of {len(names)} figures are here, and whatever runs are behind them.",
        [notes],
        [*tables, *parts],
        ", of the JSON files beside this page.",
    )
    return {"page": str(out / page), "figures": list(found), "missing": missing}


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path, _WHAT, _SHAPE, _MEND))


def _notes(found: Mapping[str, Found], missing: Sequence[str], names: Mapping[str, str]) -> str:
    parts = [f"Figure {number} is not here: firstsight figure {number} makes it." for number in missing]
    halves = {number: unfinished(one) for number, one in found.items() if "data" in one}
    parts += [f"Figure {number} is {half}." for number, half in halves.items() if half]
    return " ".join(parts)


def _tables(curves: Sequence[Found]) -> list[str]:
    parts = []
    for data, lines in runs_by_data(curves).items():
        head, *rows = model_rows(lines)
        note = (
            f"Perplexity on {data}, mean ± sample standard deviation over seeds. The paper's are of WikiText-103, and "
            "are known here from other sources than the paper itself. Beside memories: the settings of the evaluation."
        )
        parts.append(
            section(f"Table: perplexity by model, {data}", text_table("models", head, rows), small_print(note))
        )
        head, *rows = band_rows(lines)
        note = (
            f"The {split_of(lines)} split by how often training has the word. The paper has this table in its main "
            "text, of which this project has no copy, so its numbers are not beside ours."
        )
        parts.append(
            section(f"Table: perplexity by frequency, {data}", text_table("bands", head, rows), small_print(note))
        )
    return parts


def _figure(number: str, found: Found, name: str) -> str:
    says = found.get("says") or SAYS.get(number, "")
    plots, rows, notes = _curves(found, name) if "data" in found else _curricula(found, name)
    head, *body = rows
    hours, by = core_hours(found), found["run_by"]
    made = f"{found['seeds']} seeds, {hours:.1f} core hours; {found['made_by'].get('command')}"
    where = "; ".join(", ".join(map(str, by.get(key, []))) for key in ("git_commit", "machine") if by.get(key))
    return section(
        str(found["title"]),
        f'<p class="prose"><b>The paper:</b> {escape(says)}</p>' if says else "",
        *(figures([plot]) for plot in plots),
        "<h3>Here</h3>",
        text_table("ends", head, body),
        *map(small_print, notes),
        small_print(f"{made}; {where}" if where else made),
    )


def _curves(found: Found, name: str) -> tuple[list[Plot], list[list[str]], list[str]]:
    notes = ["Mean ± sample standard deviation over the seeds that are done; differences are paired by seed."]
    if times := found.get("wall_time"):
        rows = "; ".join(wall_time_text(line, one) for line, one in times.items())
        notes.append(f"Time of a step, by that over all classes, turn by turn in one process: {rows}.")
    plot = curve_plot(found, name)
    return [plot] if plot else [], end_rows(found), notes


def _curricula(found: Found, name: str) -> tuple[list[Plot], list[list[str]], list[str]]:
    note = "Median of steps over seeds, in brackets the ratio to the panel's first line, paired by seed: median, range."
    return curriculum_plots(found, name), pace_rows(found), [note]
