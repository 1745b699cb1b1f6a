"""The memories at test time by name, as readers of a text; a new one is a line of ``MEMORIES``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.heads import Softmax
from firstsight.lab.data.tokens import text_hash
from firstsight.lab.lm.reader import Plain, Reader, Segment
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.dynamic import Dynamic, Learning, gradient_rms
from firstsight.lab.reading.stored import open_store
from firstsight.memory import KNN, Datastore, MbPA, NeuralCache, UnboundedCache, mix, recall
from firstsight.memory.mixture import CACHE_WEIGHT, MBPA_WEIGHT
from firstsight.memory.store import Memory

CHUNK = 4096  # tokens that the memories get at once: MbPA computes its window's distributions once for all of them


@dataclass(frozen=True)
class Kind:
    """A memory that ``--memory`` knows."""

    label: str
    """what tables call it"""
    settings: Mapping[str, Any]
    """those of the paper, or the usual ones: all of its arguments that a sweep may choose"""
    weight: float
    """its share of the mixture with them"""
    make: Callable[..., Memory] | None = None
    """the memory of pairs, empty, for a ``Use`` and some settings"""
    reader: Callable[..., Reader] | None = None
    """the reader for a ``Use`` and some settings, where it is no memory of pairs"""


@dataclass(frozen=True)
class Use:
    """What a memory is made for."""

    run: Run
    text: np.ndarray
    """[N] the tokens that are read"""
    store: str | Path | None = None
    """of kNN-LM, if not the one in the run's folder"""
    by_document: bool = False
    """what was read of a document is forgotten where the next one begins"""
    _rms: dict[int, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def datastore(self) -> Datastore:
        """The store, opened once: every byte of it is checked."""
        return open_store(self.run, self.store)

    def gradient_rms(self, length: int) -> dict[str, Tensor]:
        """Of the training text in parts of that length, measured once."""
        if length not in self._rms:
            text, eos_id = self.run.corpus.split("train"), self.run.vocabulary.eos_id
            self._rms[length] = gradient_rms(self.run.model, text, eos_id=eos_id, length=length)
        return self._rms[length]


def _knn(use: Use, **settings: Any) -> Memory:
    """kNN-LM over a store, by its index where it has one; of the text that is read itself, no token finds itself."""
    store = use.datastore
    own = store.about.get("text") == text_hash(use.text)
    return KNN(store, **settings, leave_out=own, approximate=store.index is not None)


def _dynamic(use: Use, **settings: Any) -> Reader:
    """Dynamic evaluation of a run's model, by the gradients of its training text where the rule divides by them."""
    learning = Learning(**settings)
    if learning.rule == "sgd" or not learning.lr:
        return Dynamic(use.run.model, replace(learning, rule="sgd"))
    return Dynamic(use.run.model, learning, use.gradient_rms(learning.length))


MEMORIES: dict[str, Kind] = {
    "cache": Kind("cache", {"size": 10_000, "theta": 0.3}, CACHE_WEIGHT, lambda _, **found: NeuralCache(**found)),
    "mbpa": Kind(
        "MbPA",
        {"size": 10_000, "k": 1024, "lr": 0.3, "beta": 0.5, "steps": 1},
        MBPA_WEIGHT,
        lambda _, **found: MbPA(**found),
    ),
    "unbounded": Kind(
        "unbounded cache",
        {"k": 1024, "temperature": 1.0},
        CACHE_WEIGHT,
        lambda _, **found: UnboundedCache(**found, by_document=True),
    ),
    "knn": Kind("kNN", {"k": 1024, "temperature": 1.0}, 0.25, _knn),
    "dynamic": Kind("dynamic", asdict(Learning()), 0.5, reader=_dynamic),
}
PAPERS = ["cache", "mbpa"]  # reported together wherever others take part


def memory_of(name: str, use: Use, settings: Mapping[str, Any]) -> Memory | None:
    """The memory of pairs of that name, empty; None of one that recalls no pairs."""
    make = MEMORIES[name].make
    return None if make is None else make(use, **settings)


def reader_of(name: str, use: Use, settings: Mapping[str, Any]) -> Reader:
    """What reads a text with the memory of that name, empty."""
    kind = MEMORIES[name]
    if kind.reader is not None:
        return kind.reader(use, **settings)
    assert kind.make is not None
    return Recalling(kind.make(use, **settings), use.run.model.head, use.by_document)


class Recalling:
    """A reader that scores a text with a memory of what came before; where that is empty, as the model does."""

    def __init__(self, memory: Memory, head: Softmax, by_document: bool = False) -> None:
        self._memory, self._head, self._by_document = memory, head, by_document

    @property
    def reach(self) -> float:
        """See :class:`firstsight.lab.lm.reader.Reader`."""
        return self._memory.size

    def read(self, segment: Segment) -> Tensor:
        """See ``Reader``; infinite where the memory has not met the word."""
        assert segment.nll is not None, "the model reads first"
        self._begin(segment)
        return recall(self._memory, self._head, segment.hidden, segment.target, segment.nll)

    def skip(self, segment: Segment) -> None:
        """See ``Reader``."""
        self._begin(segment)
        self._memory.read(self._head, segment.hidden, segment.target, score=False)

    def _begin(self, segment: Segment) -> None:
        if self._by_document and segment.fresh:
            self._memory.new_document()


def model_and(memories: Mapping[str, Memory | Reader], head: Softmax) -> dict[str, Reader]:
    """The readers of a text, by name: the model first, then each memory."""
    readers = {
        name: Recalling(memory, head) if isinstance(memory, Memory) else memory for name, memory in memories.items()
    }
    return {"model": Plain(head), **readers}


@dataclass(frozen=True)
class Mixture:
    """The model and some memories.

    Attributes:
        name: what it is called.
        weights: of each memory that takes part.
        by_band: the same for each of ``BANDS`` that the word before may be of, the rarest first; None: one for all.
    """

    name: str
    weights: Mapping[str, float]
    by_band: Sequence[Mapping[str, float]] | None = None

    def nll(self, nll: Mapping[str, np.ndarray], band_N: np.ndarray | None = None) -> np.ndarray:
        """The NLL [N] of the mixture from those of the model and the memories; ``band_N`` is of ``bands_before``."""
        if self.by_band is None:
            return mixture(nll["model"], [(nll[name], weight) for name, weight in self.weights.items()])
        assert band_N is not None
        found_N = np.empty(len(band_N))
        for band, weights in enumerate(self.by_band):
            here_N = band_N == band
            found_N[here_N] = mixture(nll["model"][here_N], [(nll[name][here_N], w) for name, w in weights.items()])
        return found_N


@dataclass(frozen=True)
class Recipe:
    """What an evaluation with memories needs to know."""

    settings: dict[str, dict[str, Any]]
    """the arguments of each memory, by name"""
    mixtures: list[Mixture]
    """those to report: the model alone first, the whole last"""

    def readers(self, use: Use) -> dict[str, Reader]:
        """The model's reader, and those of the memories, empty."""
        found = {name: reader_of(name, use, settings) for name, settings in self.settings.items()}
        return {"model": Plain(use.run.model.head), **found}


def names_of(memory: str) -> list[str]:
    """The names of ``MEMORIES`` that a flag gives, in their order."""
    asked = memory.split(",")
    if set(asked) - set(MEMORIES) or len(set(asked)) < len(asked):
        expected = f"expected one or more of {', '.join(MEMORIES)}, separated by commas"
        raise InputError(f"--memory is {memory!r}; {expected}, as in {','.join(list(MEMORIES)[:2])}.")
    return [name for name in MEMORIES if name in asked]


def choose_recipe(
    memory: str, tuned: Mapping[str, Any] | None = None, source: str = "", by_band: bool = False
) -> Recipe:
    """The settings of the memories named, and the mixtures to report: each alone, the paper's two, and all together.

    With a tuned file each mixture has weights of its own: what is best for the cache alone is too much for it where
    others take part. Without one the settings are the paper's, or the usual ones, whose weights serve all.

    Args:
        memory: names of ``MEMORIES``, separated by commas.
        tuned: what ``read_tuned`` gave.
        source: the file that it is from, for messages.
        by_band: the mixture of all of them by the band of the word before too, as the last one.
    """
    names = names_of(memory)
    if by_band and tuned is None:
        raise InputError("--by-band takes the weights of each band from a tuned file: give it with --tuned.")
    mixtures = [Mixture("model", {})]
    if tuned is None:
        usual = {name: MEMORIES[name].weight for name in names}
        mixtures += [Mixture(label_of([name]), {name: usual[name]}) for name in names]
        mixtures += [Mixture(label_of(names), usual)] if len(names) > 1 else []
        return Recipe({name: dict(MEMORIES[name].settings) for name in names}, mixtures)
    chosen = tuned["chosen"]
    for name in names:
        if chosen.get(name) is None:
            raise InputError(
                f"{source} holds no settings of {MEMORIES[name].label}: its sweep was made without. Leave that memory "
                f"out, or sweep again with it: firstsight sweep memory RUN --memory {','.join(names)}."
            )
    found = {frozenset(one["weights"]): one["weights"] for one in chosen["mixtures"]}
    papers = [PAPERS] if set(PAPERS) < set(names) else []
    for some in [[name] for name in names] + papers + ([names] if len(names) > 1 else []):
        mixtures.append(Mixture(label_of(some), found[frozenset(some)]))
    if by_band:
        banded = chosen.get("by_band") or [{}]
        if set(banded[0]) != set(names):
            known = ",".join(banded[0]) or "none"
            raise InputError(f"{source} holds weights by band of {known} together, and {memory} was asked for.")
        mixtures.append(Mixture(f"{label_of(names)}, by band", found[frozenset(names)], banded))
    settings = {name: {key: chosen[name][key] for key in MEMORIES[name].settings} for name in names}
    return Recipe(settings, mixtures)


def label_of(names: Sequence[str]) -> str:
    """What tables call the mixture of the model with these memories."""
    return " ".join(f"+ {MEMORIES[name].label}" for name in names) if len(names) < 3 else f"+ all {len(names)}"


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
