"""``firstsight report``: one page about a run, or a comparison of several."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from firstsight.lab.cli.output import Found, Json, MaybePath, show, tell


def report(
    runs: Positional[tuple[Path, ...]],
    out: MaybePath = None,
    plots: Literal["png", "svg", "pdf"] = "png",
    csv: bool = False,
    force: bool = False,
    json: Json = False,
) -> int:
    """One self-contained HTML page for a run, or to compare several that were evaluated on the same split.

    Example: firstsight report runs/softmax runs/hebbian --out runs/comparison

    Example: firstsight report runs/hebbian --plots pdf --csv

    Args:
        runs: folders of runs; the first is what the others are held against.
        out: folder for the page and its plots; for one run, by default, its own.
        plots: what the figures in plots/ are; svg and pdf are for papers.
        csv: write metrics.csv too: a row for each validation of each run, with perplexity by frequency of the word.
        force: compare perplexities of different vocabularies or texts all the same; the page says so.
    """
    from firstsight.lab.report import write_report

    found: Found = {"report": str(write_report(runs, out, force, plots, csv))}
    if csv:
        found["metrics"] = str(Path(found["report"]).parent / "metrics.csv")
    return show(found, json, lambda found: tell(*found.values()))
