"""What a training run carries from step to step, and how it ended."""

import math
from dataclasses import dataclass

from firstsight.lab.lm.recurrent.plain import State

# Why training ends, "" for no reason yet: where processes have different ones, the last of them in this order counts.
REASONS = ("", "steps", "patience", "minutes", "SIGTERM", "SIGINT")


@dataclass
class TrainState:
    """What a run carries from step to step beside its weights: with them, all that a checkpoint goes on from."""

    step: int = 0
    """steps taken"""
    seconds: float = 0.0
    """of training"""
    best_loss: float = math.inf
    """of validation, in nats"""
    since_best: int = 0
    """validations since then"""
    loss_sum: float = 0.0
    """of the training losses since the last validation"""
    loss_steps: int = 0
    """their number"""
    valid_perplexity: float = math.nan
    """of the last validation"""
    lstm: State | None = None
    """the LSTM's, where it is passed on"""


@dataclass(frozen=True)
class Outcome:
    """How training ended: ``reason`` is one of ``REASONS``."""

    step: int
    tokens: int
    seconds: float
    best_perplexity: float | None
    reason: str
