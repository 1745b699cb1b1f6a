"""``firstsight figure``: a figure of the paper, or a page of all."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from firstsight.lab.cli.omniglot import print_curricula
from firstsight.lab.cli.output import Found, Json, MaybeInt, MaybePath, console, new_table, show, tell


def figure(
    number: Positional[str],
    data: MaybePath = None,
    out: Path = Path("runs/figures"),
    scale: Literal["cpu", "paper"] = "cpu",
    seeds: MaybeInt = None,
    workers: MaybeInt = None,
    json: Json = False,
) -> int:
    """Make a figure of the paper: train what it lacks, draw it, and keep its numbers as JSON.

    Learning curves of language models: 5: books, with the classes seen. 6: newspaper articles, a fresh sample at each
    point. 7: AdaGrad. 8: sampled softmax. 9: inner objectives. Of Omniglot: 10: classes learned against steps, plain
    and Hebbian softmax, three optimizers. 11: plain softmax, six learning rates. all: a page of those there are.

    What 5 to 9 will cost is measured and said first; 10 and 11 are 180 and 60 runs of about a minute on one core at
    scale cpu. Runs are shared out over all cores. Ctrl-C draws what there is. Interrupted or killed, the same command
    goes on.

    Example: firstsight figure 9 --seeds 1

    Example: firstsight figure 10 --data data/omniglot --out runs/figures

    Example: firstsight figure all --out runs/figures

    Args:
        number: the paper's number of the figure, 5 to 11, or all.
        data: data folder; by default data/stdlib for 7 to 9, made where it is missing, data/gutenberg-25, data/gigaword
            and data/omniglot for the others; at scale paper data/wikitext-103 and data/gutenberg.
        out: folder for figure-N.json, figure-N*.png and .svg, and the runs, which the figures share.
        scale: cpu: a small model, four passes over the text; 500 steps of Omniglot. paper: the appendix's settings; up
            to 5,000 steps of Omniglot.
        seeds: how many of each line, from 0; by default 3 for 5 to 9, 10 for 10 and 11.
        workers: runs at a time; by default one a core.
    """
    from firstsight.lab.report.figures import CURVES, make_figure, make_gallery

    if number == "all":
        return show(make_gallery(out, scale), json, _print_gallery)
    found = make_figure(number, data, out, scale, seeds, workers)
    return show(found, json, _print_curves if number in CURVES else print_curricula)


def _print_gallery(found: Found) -> None:
    tell(f"figures {', '.join(found['figures'])}: {found['page']}")
    for number in found["missing"]:
        tell(f"not there: firstsight figure {number}")


def _print_curves(found: Found) -> None:
    """A row for each line, what took how long, and where the files are."""
    from firstsight.lab.report.figures.draw import unfinished, wall_time_text
    from firstsight.lab.report.figures.tables import core_hours, end_rows

    head, *rows = end_rows(found)
    table = new_table(found["title"], head)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    console.print(table)
    tell("Mean ± one sample standard deviation over the seeds that are done; differences are paired by seed.")
    for line, ratio in (found["wall_time"] or {}).items():
        tell(f"Time of a step, by that over all classes: {wall_time_text(line, ratio)}")
    tell(f"The paper: {found['says']}")
    missing = unfinished(found)
    tell(f"{core_hours(found):.2f} core hours of training" + (f"; {missing}" if missing else ""))
    if "interrupted" in found:
        tell(f"ended by {found['interrupted']}; the same command goes on")
    for file, caption in found["files"].items():
        tell(f"{file}: {caption}")
