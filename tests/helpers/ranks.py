"""Processes of a job: as forks of the test under torchrun's own agent, or as a user starts them."""

import contextlib
import os
from collections.abc import Callable

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from firstsight.lab.lm import training


def fork(ranks: int, work: Callable, *args) -> list:
    """``work(*args)`` on each of so many ranks, in float64; what each returned, in the order of the ranks."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        start_method="fork",
        monitor_interval=0.05,
    )
    found = elastic_launch(config, _in_rank)(work, *args)
    return [found[rank] for rank in range(ranks)]


def _in_rank(work: Callable, *args):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    return work(*args)


def train_all(corpus, jobs) -> list[str]:
    """Train each of (out, config, resume), one after the other, and say how each ended."""
    return [training.train(corpus, out, config, resume=resume).reason for out, config, resume in jobs]


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
