"""``firstsight omniglot``: the Omniglot curriculum."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from firstsight.lab.cli.output import Checked, Found, Json, MaybeInt, console, new_table, show, tell
from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.curriculum.settings import DATA, Curriculum

BINDING = "Accuracy in percent: new classes shown so many times; classes of the start when so many were reached"


@dataclass(frozen=True)
class NetworkFlags(Checked, Network):
    """The convnet before the head."""


@dataclass(frozen=True)
class CurriculumFlags(Checked, Curriculum):
    """Everything that decides a curriculum but the images."""

    max_steps: int = 500
    """optimizer steps at most"""
    network: NetworkFlags = field(default_factory=NetworkFlags)


def omniglot(
    data: Path = DATA,
    out: Path = Path("runs/omniglot"),
    seeds: int = 10,
    workers: MaybeInt = None,
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
    from firstsight.lab.report.figures.curricula import run_omniglot

    plain = Curriculum.from_dict(settings.to_dict())
    return show(run_omniglot(data, plain, seeds, out, workers), json, print_curricula)


def print_curricula(found: Found) -> None:
    """Two tables with a row for each line, and where the files are."""
    from firstsight.lab.report.curriculum import binding_rows, pace_rows

    for title, (head, *rows) in ((found["title"], pace_rows(found)), (BINDING, binding_rows(found))):
        table = new_table(title, head)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    note = "Median of steps over seeds, and how many got there in time where not all did"
    if any("ratios" in line for panel in found["panels"] for line in panel["lines"]):
        note += "; in brackets the ratio to the steps of the panel's first line, paired by seed: median, range"
    tell(f"{note}. Means are ± one sample standard deviation.")
    if "interrupted" in found:
        tell(f"ended by {found['interrupted']}; the same command goes on")
    for file, caption in found["files"].items():
        tell(f"{file}: {caption}")
