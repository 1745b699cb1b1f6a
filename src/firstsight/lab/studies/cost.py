"""What many training runs will cost, measured before the first one starts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from firstsight.lab.data import Corpus
from firstsight.lab.lm.dry_run import dry_run
from firstsight.lab.studies.curves import CurveJob


@dataclass(frozen=True)
class Cost:
    """Of the runs that are left."""

    runs: int
    seconds: dict[str, float]
    """of a whole run of each variant, on one core"""
    core_seconds: float
    """of all that is left"""
    wall_seconds: float
    """of all that is left, on so many cores at once"""


def estimate(waiting: Sequence[CurveJob], corpus: Corpus, workers: int) -> Cost:
    """A few steps of each variant on one thread, and a part of a validation, make the whole.

    What a run has done already is taken off. As if the cores did not disturb one another.
    """
    seconds: dict[str, float] = {}
    with one_thread():
        for job in waiting:
            if job.variant not in seconds:
                seconds[job.variant] = float(dry_run(corpus, job.config)["estimate"]["seconds"])
    left = [seconds[job.variant] * (1 - _done(job)) for job in waiting]
    core = sum(left)
    wall = max(core / workers, max(left, default=0.0))
    return Cost(len(waiting), seconds, core, wall)


def _done(job: CurveJob) -> float:
    return max([0.0, *(float(line["step"]) / job.config.steps for line in job.metrics())])


@contextmanager
def one_thread() -> Iterator[None]:
    """As the processes of ``jobs`` have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
