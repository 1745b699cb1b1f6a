"""What many training runs will cost, measured before the first one starts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run import dry_run, run_seconds
from firstsight.lab.system.progress import duration, say


class Trained(Protocol):
    """A job that trains a language model."""

    @property
    def variant(self) -> str:
        """Jobs of one take equally long."""

    @property
    def config(self) -> Config:
        """Its settings."""

    def share(self) -> float:
        """How much of it is behind it, from 0 to 1."""

    def metrics(self) -> list[dict[str, Any]]:
        """What it has behind it."""


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


def estimate(
    waiting: Sequence[Trained],
    corpus: Corpus,
    workers: int,
    begun: Sequence[Trained] = (),
    known: Mapping[str, float] | None = None,
) -> Cost:
    """The pace of a variant's runs that are ``begun``, else its seconds in ``known``, else a few steps on one thread
    and a part of a validation, make the whole.

    What a run has done already is taken off. As if the cores did not disturb one another.
    """
    seconds = dict(known or {})
    for job in begun:
        for line in job.metrics()[-1:]:
            seconds[job.variant] = float(line["seconds"]) * job.config.steps / float(line["step"])
    with one_thread():
        for job in waiting:
            if job.variant not in seconds:
                seconds[job.variant] = float(dry_run(corpus, job.config)["estimate"]["seconds"])
    left = [seconds[job.variant] * (1 - job.share()) for job in waiting]
    core = sum(left)
    wall = max(core / workers, max(left, default=0.0))
    return Cost(len(waiting), {job.variant: seconds[job.variant] for job in waiting}, core, wall)


def say_cost(runs: Iterable[tuple[str, Config, int]], workers: int) -> None:
    """Say in one line what training runs will take here, by very few steps of each setting on one thread.

    A setting that cannot be tried, because it is wrong or diverges at once, counts nothing: its own run will say so.

    Args:
        runs: of each its data folder, its settings, and the steps that are behind it.
        workers: runs at a time.
    """
    whole, left = dict[tuple[str, Config], float](), list[float]()
    with one_thread():
        for source, config, done in runs:
            key = source, config.replace(seed=0)
            if key not in whole:
                try:
                    whole[key] = run_seconds(open_corpus(source), key[1])
                except InputError:
                    whole[key] = 0.0
            left.append(whole[key] * (1 - done / config.steps))
    say_seconds(left, workers)


def say_seconds(left: Sequence[float], workers: int) -> None:
    """The line of ``say_cost``, from the seconds of each run on one core."""
    if left:
        runs = "1 run" if len(left) == 1 else f"{len(left)} runs"
        wall = max(sum(left) / workers, max(left))
        say(f"{runs} to do: about {duration(wall)} on this machine, {min(workers, len(left))} at a time")


@contextmanager
def one_thread() -> Iterator[None]:
    """As the processes of ``jobs`` have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
