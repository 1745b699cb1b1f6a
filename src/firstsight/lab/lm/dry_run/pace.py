"""How long the steps of two training runs take beside each other, measured in one process and turn by turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from firstsight.lab.data import Corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.training import rehearse

ROUNDS, WARM_UP = 15, 2
LONGEST = 300.0
"""Seconds after which no further round begins, once there are three."""


def step_ratio(corpus: Corpus, base: Config, other: Config, rounds: int = ROUNDS) -> dict[str, Any]:
    r"""How many times as long a training step of ``other`` takes as one of ``base``.

    Each round takes one step of both, so that a machine that slows down slows both; nothing is written to disk.

    .. math:: q_k = t_k^{\mathrm{other}} / t_k^{\mathrm{base}}, \qquad k = 1 \dots \mathrm{rounds}

    Args:
        corpus: the data.
        base, other: the settings.
        rounds: so many, 3 or more, after two that are not timed.

    Returns:
        ``median``, ``quartile_1`` and ``quartile_3`` of q; ``rounds``; and the median ``seconds`` of a step: [base,
        other].
    """
    steps = [rehearse(corpus, config)[1] for config in (base, other)]
    began, seconds = time.perf_counter(), list[list[float]]()
    while len(seconds) < rounds + WARM_UP:
        seconds.append([_timed(step) for step in steps])
        if len(seconds) >= 3 + WARM_UP and time.perf_counter() - began > LONGEST:
            break
    timed = seconds[WARM_UP:]
    low, median, high = statistics.quantiles([other / base for base, other in timed], n=4)
    medians = [statistics.median(column) for column in zip(*timed, strict=True)]
    return {"median": median, "quartile_1": low, "quartile_3": high, "rounds": len(timed), "seconds": medians}


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
