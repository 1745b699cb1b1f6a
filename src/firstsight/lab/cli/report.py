"""``firstsight report``: one page about a run, or a comparison of several."""

from pathlib import Path

from tyro.conf import Positional

from firstsight.lab.cli.output import Json, show


def report(runs: Positional[tuple[Path, ...]], out: Path | None = None, force: bool = False, json: Json = False) -> int:
    """One self-contained HTML page for a run, or to compare several that were evaluated on the same split.

    Example: firstsight report runs/softmax runs/hebbian --out runs/comparison

    Args:
        runs: folders of runs; the first is what the others are held against.
        out: folder for the page and its plots; for one run, by default, its own.
        force: compare perplexities of different vocabularies or texts all the same; the page says so.
    """
    from firstsight.lab.report import write_report

    return show({"report": str(write_report(runs, out, force))}, json, lambda found: print(found["report"]))
