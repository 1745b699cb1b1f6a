"""``firstsight figure``: a figure of the paper."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from firstsight.lab.cli.omniglot import DATA, print_curricula
from firstsight.lab.cli.output import Json, show


def figure(
    number: Positional[str],
    data: Path = DATA,
    out: Path = Path("runs/figures"),
    scale: Literal["cpu", "paper"] = "cpu",
    seeds: int = 10,
    workers: int | None = None,
    json: Json = False,
) -> int:
    """Make a figure of the paper: train what it lacks, draw it, and keep its numbers as JSON.

    10: classes learned against steps, plain and Hebbian softmax, three optimizers. 11: plain softmax, six learning
    rates. At scale cpu and 10 seeds that is 180 and 60 runs of about a minute on one core, shared out over all cores.
    Interrupted or killed, the same command goes on.

    Example: firstsight figure 10 --data data/omniglot --out runs/figures

    Args:
        number: the paper's number of the figure.
        data: folder that firstsight data omniglot made.
        out: folder for figure-N.json, figure-N*.png and the runs, which the figures share.
        scale: cpu: 500 steps a run; paper: up to 5,000, to learn all classes.
        seeds: how many of each line, from 0.
        workers: runs at a time; by default one a core.
    """
    from firstsight.lab.report.figures import make_figure

    return show(make_figure(number, data, out, scale, seeds, workers), json, print_curricula)
