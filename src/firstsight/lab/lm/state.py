"""What a training run carries from step to step, how a checkpoint keeps it, and how a run ended."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from firstsight.errors import InputError
from firstsight.lab.data import Corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recurrent.plain import State
from firstsight.lab.lm.run import check_same
from firstsight.lab.lm.sights import Sights

# Why training ends, "" for no reason yet: where processes have different ones, the last of them in this order counts.
# "stopped": whoever watched its validations had seen enough.
REASONS = ("", "steps", "patience", "minutes", "stopped", "SIGTERM", "SIGINT")


class DivergedError(InputError):
    """The loss or the weights are no longer finite: no mistake in the input, so the exit code is 1."""

    exit_code = 1


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


class _Stateful(Protocol):
    """An optimizer, or what Fabric puts around it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def to_go_on(
    config: Config, state: TrainState, optimizer: _Stateful, sights: Sights, lstm: State | None
) -> dict[str, Any]:
    """What a checkpoint needs beside the weights for training to go on from it bit for bit; ``lstm`` of all ranks."""
    return {
        "config": config.to_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        "trainer": {**vars(state), "lstm": lstm, "sights": sights.state()},
    }


def check_saved(saved: dict[str, Any], config: Config, corpus: Corpus, path: Path) -> None:
    """Raise InputError unless training with these settings on this corpus can go on from a checkpoint's content."""
    known = {field.name for field in dataclasses.fields(TrainState)} | {"sights"}
    if set(saved.get("trainer", {})) != known:
        raise InputError(
            f"{path}: this checkpoint holds weights alone (is it a copy of best.pt?) or is of an older "
            "firstsight, and training goes on from a last.pt of this one only. Put that back, or start a new run."
        )
    check_same(Config.from_dict(saved["config"], str(path)), config, path)
    if saved["vocabulary_hash"] != corpus.vocabulary.hash:
        raise InputError(f"{path}: the run was trained with another vocabulary than that of {corpus.folder}.")


def go_on(saved: dict[str, Any], optimizer: _Stateful, sights: Sights) -> TrainState:
    """Put back what ``to_go_on`` gave: optimizer, random state and sights; the counters are given, ``lstm`` whole."""
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"][0])
    if len(saved["rng"]) - 1 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["rng"][1:])
    sights.restore(saved["trainer"].pop("sights"))
    return TrainState(**saved["trainer"])
