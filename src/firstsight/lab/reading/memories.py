"""The memories at test time by name, as readers of a text; a new one is a line of ``MEMORIES``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.heads import Softmax
from firstsight.lab.lm.reader import Plain, Reader, Segment
from firstsight.memory import MbPA, NeuralCache, mix, recall
from firstsight.memory.mixture import CACHE_WEIGHT, MBPA_WEIGHT
from firstsight.memory.store import Memory

CHUNK = 4096  # tokens that the memories get at once: MbPA computes its window's distributions once for all of them


@dataclass(frozen=True)
class Kind:
    """A memory that ``--memory`` knows."""

    label: str
    """what tables call it"""
    make: Callable[..., Memory]
    """the memory of some settings, empty"""
    settings: Mapping[str, Any]
    """those of the paper, or the usual ones: all of its arguments that a sweep may choose"""
    weight: float
    """its share of the mixture with them"""


MEMORIES: dict[str, Kind] = {
    "cache": Kind("cache", NeuralCache, {"size": 10_000, "theta": 0.3}, CACHE_WEIGHT),
    "mbpa": Kind("MbPA", MbPA, {"size": 10_000, "k": 1024, "lr": 0.3, "beta": 0.5, "steps": 1}, MBPA_WEIGHT),
}


class Recalling:
    """A reader that scores a text with a memory of what came before; where that is empty, as the model does."""

    def __init__(self, memory: Memory, head: Softmax) -> None:
        self._memory, self._head = memory, head

    @property
    def reach(self) -> float:
        """See :class:`firstsight.lab.lm.reader.Reader`."""
        return self._memory.size

    def read(self, segment: Segment) -> Tensor:
        """See ``Reader``; infinite where the memory has not met the word."""
        assert segment.nll is not None, "the model reads first"
        return recall(self._memory, self._head, segment.hidden, segment.target, segment.nll)

    def skip(self, segment: Segment) -> None:
        """See ``Reader``."""
        self._memory.read(self._head, segment.hidden, segment.target, score=False)


def model_and(memories: Mapping[str, Memory], head: Softmax) -> dict[str, Reader]:
    """The readers of a text, by name: the model first, then each memory."""
    return {"model": Plain(head), **{name: Recalling(memory, head) for name, memory in memories.items()}}


@dataclass(frozen=True)
class Mixture:
    """The model and some memories: what it is called, and the weight of each memory that takes part."""

    name: str
    weights: Mapping[str, float]

    def nll(self, nll: Mapping[str, np.ndarray]) -> np.ndarray:
        """The NLL [N] of the mixture from the model's and those of the memories."""
        return mixture(nll["model"], [(nll[name], weight) for name, weight in self.weights.items()])


@dataclass(frozen=True)
class Recipe:
    """What an evaluation with memories needs to know."""

    settings: dict[str, dict[str, Any]]
    """the arguments of each memory, by name"""
    mixtures: list[Mixture]
    """those to report: the model alone first, the whole last"""

    def memories(self) -> dict[str, Memory]:
        """The memories, empty."""
        return {name: MEMORIES[name].make(**settings) for name, settings in self.settings.items()}


def choose_recipe(memory: str, tuned: Mapping[str, Any] | None = None, source: str = "") -> Recipe:
    """The settings of the memories named, the paper's without a tuned file.

    Each mixture has weights of its own in a tuned file: what is best for the cache alone is too much for it where
    MbPA takes part. The paper gives one pair, which serves all.

    Args:
        memory: names of ``MEMORIES``, separated by commas.
        tuned: what ``read_tuned`` gave.
        source: the file that it is from, for messages.
    """
    asked = memory.split(",")
    if set(asked) - set(MEMORIES) or len(set(asked)) < len(asked):
        expected = f"expected one or more of {', '.join(MEMORIES)}, separated by commas"
        raise InputError(f"--memory is {memory!r}; {expected}, as in {','.join(MEMORIES)}.")
    names = [name for name in MEMORIES if name in asked]
    chosen: dict[str, Any] = {name: MEMORIES[name].settings for name in names}
    alone = together = {name: MEMORIES[name].weight for name in names}
    if tuned is not None:
        for name in names:
            if tuned["chosen"].get(name) is None:
                raise InputError(
                    f"{source} holds no settings of {MEMORIES[name].label}: its sweep was made without. Leave that "
                    "memory out, or sweep again with it."
                )
        chosen = {name: {key: tuned["chosen"][name][key] for key in chosen[name]} for name in names}
        alone, both = tuned["chosen"]["weights"], tuned["chosen"]["weights"]["both"]
        together = dict(zip(MEMORIES, both, strict=False)) if both else alone
    mixtures = [Mixture("model", {})]
    mixtures += [Mixture(f"+ {MEMORIES[name].label}", {name: alone[name]}) for name in names]
    if len(names) > 1:
        whole = " ".join(f"+ {MEMORIES[name].label}" for name in names)
        mixtures.append(Mixture(whole, {name: together[name] for name in names}))
    return Recipe({name: dict(settings) for name, settings in chosen.items()}, mixtures)


def mixture(nll_N: np.ndarray, parts: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """The NLL [N] of a mixture from the model's and those of memories with weights, in float64; untouched without."""
    weighty = [(torch.from_numpy(part_N).double(), weight) for part_N, weight in parts if weight]
    return mix(torch.from_numpy(nll_N).double(), weighty).numpy() if weighty else nll_N


def check_finite(nll_N: np.ndarray) -> None:
    """Raise InputError if the model's own NLL is not finite everywhere."""
    if not np.isfinite(nll_N).all():
        raise InputError(
            f"the model's own NLL is not finite at {int((~np.isfinite(nll_N)).sum()):,} of {len(nll_N):,} tokens: it "
            "has diverged, and no memory mends that. Train it anew, with a lower rate."
        )
