"""``report.html`` of a search: one page that needs nothing beside it. All text passes ``html.escape``."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import optuna
import yaml

from firstsight.lab.report.elements import div, figures, section, small_print, text_table, write_page
from firstsight.lab.report.passage import passage_style
from firstsight.lab.report.style import Plot
from firstsight.lab.report.sweep.plots import search_plots
from firstsight.lab.report.tables import DASH
from firstsight.lab.studies.search.space import readable_settings, readable_value
from firstsight.lab.system.progress import duration, readable

Found = Mapping[str, Any]


def write_sweep_report(out: Path, study: optuna.Study, found: Found) -> Path:
    """Write ``report.html``, whose path it gives, and ``plots/*.png`` about a search.

    Args:
        out: the folder of the search.
        study: the search in its storage, of which Optuna draws.
        found: what ``sweep.json`` holds of it.
    """
    plots = search_plots(study)
    for plot in plots:
        plot.save(out / "plots")
    wide = [plot for plot in plots if plot.name in ("parallel_coordinates", "slices")]
    sections = [
        section("Parallel coordinates", *map(_alone, wide[:1])),
        section("All points", _points(found), small_print(_how(found))),
        section("Figures", *map(_alone, wide[1:]), figures([plot for plot in plots if plot not in wide])),
        _again(found),
    ]
    return write_page(
        out / "report.html",
        f"{found['study']}: a search on {found['dataset']}",
        _verdict(found),
        _notes(found),
        sections,
        ". The figures lie beside this page as PNG files, in the folder plots; all numbers are in sweep.json.",
        passage_style(),
    )


def _alone(plot: Plot) -> str:
    """A figure over the whole width."""
    return div("wide", [f"<figure>{plot.svg()}<figcaption>{escape(plot.caption)}</figcaption></figure>"])


def _verdict(found: Found) -> str:
    if not found["best"]:
        return "No point is finished yet."
    settings = readable_settings(found["best"]["settings"])
    seeds = len(found["seeds"])
    mean = f", the mean of {seeds} runs" if seeds > 1 else ""
    return (
        f"The best so far: {settings}, with a validation perplexity of {readable(found['best']['perplexity'])}{mean}."
    )


def _notes(found: Found) -> list[str]:
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    left = f" About {duration(found['seconds_left'])} left." if found["left"] and found["seconds_left"] else ""
    notes = [f"{len(found['points'])} points: {states}.{left}"]
    if len(found["seeds"]) == 1:
        notes.append("One run a point: points that lie close together may change places with another seed.")
    edges = [name for name, of in found["space"].items() if _on_edge(found, name, of)]
    if edges:
        notes.append(f"The best lies on the edge of what was searched in {', '.join(edges)}: better may lie beyond.")
    lost = [point for point in found["points"] if point["state"] in ("failed", "diverged")]
    return notes + [f"Point {point['point']} {point['state']}: {point['message']}" for point in lost]


def _on_edge(found: Found, name: str, of: Any) -> bool:
    """Of a list of three numbers or more the ends but 0 are edges, of a range what lies within a hundredth of one."""
    if not found["best"]:
        return False
    value = found["best"]["settings"][name]
    if isinstance(of, list):
        numbers = [one for one in of if isinstance(one, int | float) and not isinstance(one, bool)]
        return len(numbers) == len(of) >= 3 and value in (min(numbers), max(numbers)) and value != 0
    if of.get("log"):
        return bool(value / of["low"] < 1.05 or of["high"] / value < 1.05)
    return bool(min(value - of["low"], of["high"] - value) < 0.01 * (of["high"] - of["low"]))


def _points(found: Found) -> str:
    names, several = list(found["space"]), len(found["seeds"]) > 1
    header = ["point", *names, "perplexity", *(["deviation", "runs"] if several else []), "time", "attempts", "state"]
    rows = []
    for point in found["points"]:
        settings = [readable_value(point["settings"].get(name, DASH)) for name in names]
        perplexity = DASH if point["perplexity"] is None else readable(point["perplexity"])
        runs = [DASH if point["deviation"] is None else f"{point['deviation']:.2f}", str(len(point["seeds"]))]
        time = duration(point["seconds"]) if point["seconds"] else DASH
        cells = [*settings, perplexity, *(runs if several else []), time, str(point["attempts"]), point["state"]]
        rows.append([str(point["point"]), *cells])
    return text_table("points", header, rows)


def _how(found: Found) -> str:
    sampler = "every point of the grid once" if found["sampler"] == "grid" else f"points drawn by {found['sampler']}"
    pruned = "a run that is worse than the median of those before it is ended" if found["prune"] else "none is ended"
    return (
        f"{sampler.capitalize()}, each trained with the seeds {', '.join(map(str, found['seeds']))}. Perplexity is the "
        f"lowest of a run's validations, read in parts side by side, and the mean over the seeds; {pruned} early. It "
        "chose the settings, so that it flatters them: judge them on the test split."
    )


def _again(found: Found) -> str:
    origin = {"machine": "machine", "git commit": "git_commit", "firstsight": "version", "torch": "torch_version"}
    table = [[label, DASH if found.get(name) is None else str(found[name])] for label, name in origin.items()]
    table.append(["kept in", str(found["storage"])])
    space = yaml.safe_dump(dict(found["space"]), default_flow_style=None, sort_keys=False)
    base = [[name, str(value)] for name, value in found["base"].items() if name not in found["space"]]
    winner = (
        f"firstsight train {found['folder']} --config {found['config']} --out runs/winner" if found["config"] else ""
    )
    return section(
        "To do it again",
        f"<pre>{escape(str(found['command']))}</pre>",
        "<h3>The best, trained</h3>" + f"<pre>{escape(winner)}</pre>" if winner else "",
        "<h3>What was searched</h3>",
        f"<pre>{escape(space.rstrip())}</pre>",
        "<h3>Where the numbers come from</h3>",
        text_table("words", ["", ""], table),
        "<details><summary>All other settings</summary>" + text_table("words", ["setting", ""], base) + "</details>",
    )
