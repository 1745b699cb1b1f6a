"""The part of the command line that runs the Omniglot curriculum and makes the paper's figures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from firstsight.errors import checking_flags
from firstsight.lab.cli import screen
from firstsight.lab.cli.data import Json
from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.curriculum.settings import Curriculum

DATA = Path("data/omniglot")
BINDING = "Accuracy in percent: new classes shown so many times; classes of the start when so many were reached"


@dataclass(frozen=True)
class NetworkFlags(Network):
    """The convnet before the head."""

    def __post_init__(self) -> None:
        """Check every value."""
        with checking_flags():
            super().__post_init__()


@dataclass(frozen=True)
class CurriculumFlags(Curriculum):
    """Everything that decides a curriculum but the images."""

    max_steps: int = 500
    """optimizer steps at most"""
    network: NetworkFlags = field(default_factory=NetworkFlags)

    def __post_init__(self) -> None:
        """Check every value."""
        with checking_flags():
            super().__post_init__()


def omniglot(
    data: Path = DATA,
    out: Path = Path("runs/omniglot"),
    seeds: int = 10,
    workers: int | None = None,
    json: Json = False,
    settings: OmitArgPrefixes[CurriculumFlags] = CurriculumFlags(),
) -> int:
    """Teach a classifier new classes as fast as it learns them: the paper's curriculum, with several seeds.

    From 30 characters on, 5 more whenever the accuracy on all so far passes 60%. Uses all cores, a seed on each; about
    a minute a seed for 500 steps. Interrupted or killed, the same command goes on; with more steps too.

    Example: firstsight omniglot --optimizer rmsprop --head hebbian --seeds 10

    Example: firstsight omniglot --head hebbian --unit --scale 3 --out runs/omniglot-unit

    Args:
        data: folder that firstsight data omniglot made.
        out: folder for the runs, and for a JSON file and PNGs of what they show together.
        seeds: how many runs, from --seed on.
        workers: runs at a time; by default one a core.
    """
    from firstsight.lab.report.curriculum_figures import run_omniglot

    plain = Curriculum.from_dict(settings.to_dict())
    return screen.show(run_omniglot(data, plain, seeds, out, workers), json, _curricula)


def figure(
    number: Positional[Literal["10", "11"]],
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
    from firstsight.lab.report.curriculum_figures import make_figure

    return screen.show(make_figure(number, data, out, scale, seeds, workers), json, _curricula)


def _curricula(found: screen.Found) -> None:
    """Two tables with a row for each line, and where the files are."""
    from firstsight.lab.report.curriculum import binding_rows, pace_rows

    for title, (head, *rows) in ((found["title"], pace_rows(found)), (BINDING, binding_rows(found))):
        table = Table(title=title, title_justify="left")
        for name in head:
            table.add_column(name, justify="right" if name else "left")
        for row in rows:
            table.add_row(*row)
        screen.console.print(table)
    note = "Median of steps over seeds, and how many got there in time where not all did"
    if any("ratios" in line for panel in found["panels"] for line in panel["lines"]):
        note += "; in brackets the ratio to the steps of the panel's first line, paired by seed: median, range"
    screen.console.print(f"{note}. Means are ± one sample standard deviation.", soft_wrap=True)
    if "interrupted" in found:
        screen.console.print(f"ended by {found['interrupted']}; the same command goes on", soft_wrap=True)
    for file, caption in found["files"].items():
        screen.console.print(f"{file}: {caption}", soft_wrap=True, markup=False)
