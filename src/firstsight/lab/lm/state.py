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
from firstsight.lab.lm.sights import BUCKETS, Sights
from firstsight.lab.runs.checkpoint import array, load_optimizer
from firstsight.lab.system.files import naming
from firstsight.lab.system.shape import COUNT, OBJECT, WHOLE, Kind, Shape, check_shape

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
    trainer = saved.get("trainer")
    if not isinstance(trainer, dict) or set(trainer) != known:
        raise InputError(
            f"{path}: this checkpoint holds weights alone (is it a copy of best.pt?) or is of an older "
            "firstsight, and training goes on from a last.pt of this one only. Put that back, or start a new run."
        )
    check_shape(saved, {"config": OBJECT, "optimizer": OBJECT, "rng": [_RANDOM]}, str(path), _MEND)
    check_same(Config.from_dict(saved["config"], str(path)), config, path)
    if saved["vocabulary_hash"] != corpus.vocabulary.hash:
        raise InputError(f"{path}: the run was trained with another vocabulary than that of {corpus.folder}.")
    check_shape(trainer, _carried(config, len(corpus.vocabulary)), str(path), _MEND)
    steps = {saved["step"], trainer["step"]}
    if steps != {int(trainer["sights"]["seen"].sum()) / (config.batch * config.length)}:
        raise InputError(f"{path}: its steps and the tokens that it has seen contradict each other. {_MEND}")


_MEND = "Put a copy of it back, or start a new run."
_RANDOM = Kind(lambda value: isinstance(value, torch.Tensor) and value.dtype == torch.uint8, "a random state")


def _carried(config: Config, classes: int) -> Shape:
    """The values of a ``TrainState``, and ``sights``, as a checkpoint holds them."""
    sights = {"seen": array((classes,), torch.int64, "the sights of each class")}
    sights |= {name: array((BUCKETS,), dtype, "of each bucket") for name, dtype in _SUMS.items()}
    shape = (config.layers, config.batch, config.hidden)
    of_lstm = [array(shape, dtype, "the state of the LSTM") for dtype in (torch.get_default_dtype(), torch.bfloat16)]
    number = Kind(lambda value: isinstance(value, float), "a number")
    lstm = Kind(
        lambda value: value is None if not config.pass_state else value is None or _are_two(value, of_lstm),
        f"{of_lstm[0].expected}, twice" if config.pass_state else "null",
    )
    counts = dict.fromkeys(("step", "since_best", "loss_steps"), WHOLE)
    sums = dict.fromkeys(("best_loss", "loss_sum", "valid_perplexity"), number)
    return {**counts, **sums, "seconds": COUNT, "sights": sights, "lstm": lstm}


def _are_two(value: Any, kinds: list[Kind]) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2
    return pair and any(all(map(kind.holds, value)) for kind in kinds)


_SUMS = {"tokens": torch.int64, "sums": torch.float64}


def go_on(saved: dict[str, Any], optimizer: _Stateful, sights: Sights, path: Path) -> TrainState:
    """Put back what ``to_go_on`` gave: optimizer, random state and sights; the counters are given, ``lstm`` whole."""
    load_optimizer(optimizer, saved, path)
    with naming(path, "a checkpoint to go on from", _MEND):
        torch.set_rng_state(saved["rng"][0])
        if len(saved["rng"]) - 1 == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved["rng"][1:])
    sights.restore(saved["trainer"].pop("sights"))
    return TrainState(**saved["trainer"])
