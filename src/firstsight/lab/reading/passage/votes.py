"""What the model and each memory would have said at every token of a passage, and of which pairs.

Shape suffixes: W pairs of a window, P tokens of the passage, Q of them at once, D features, V classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Segment, reading
from firstsight.memory.recalled import Recalled, Window

TOP = 3  # pairs and guesses shown of each
QUERIES = 32  # tokens compared with a window at once


class Recalls(Protocol):
    """A memory that can show what it recalls; :class:`firstsight.memory.store.Memory` is one."""

    @property
    def size(self) -> float:
        """Pairs before a token that it looks back on; infinite where there is no bound."""

    @property
    def stored(self) -> bool:
        """Whether it recalls entries of a store of the training text, entry i of token i, and needs no window."""

    def seek(self, position: int) -> None:
        """The next query stands at this position of the text."""

    def recalled(self, query_QD: Tensor, window: Window, top: int) -> Recalled | None:
        """See :meth:`firstsight.memory.store.Memory.recalled`; of a memory with a store, a window of no pairs."""


Neighbours = list[list[list[float]]]  # of each token the pairs: place, label, share, distance
Guesses = list[list[list[float]]]  # of each token the classes: class, share


def pairs_before(memories: Mapping[str, Recalls]) -> float:
    """How many tokens before a passage must be read for what the memories recall on it."""
    return max((memory.size for memory in memories.values() if not memory.stored), default=0)


def recall_all(
    segments: Sequence[Segment], first: int, stop: int, memories: Mapping[str, Recalls], starts: Sequence[int] = ()
) -> tuple[dict[str, Neighbours], dict[str, Guesses]]:
    """What each memory recalls at the tokens ``first`` to ``stop``; a memory that recalls no pairs is left out.

    Places are those in the text that was read, or in a memory's own store. All is worked out in float64.

    Args:
        segments: of a text in one stream, up to ``stop`` and as far back as :func:`pairs_before` says.
        memories: by name; what they hold is not looked at.
        starts: where they forgot all that was before.
    """
    low = segments[0].first
    h_WD = torch.cat([segment.hidden[0] for segment in segments]).double().flip(0)  # the most recent first
    labels_W = torch.cat([segment.target[0] for segment in segments]).flip(0)
    neighbours: dict[str, Neighbours] = {name: [] for name in memories}
    guesses: dict[str, Guesses] = {name: [] for name in memories}
    for memory in memories.values():
        memory.seek(first)
    for t_Q in torch.split(torch.arange(first, stop, device=h_WD.device), QUERIES):
        query_QD, last = h_WD[stop - 1 - t_Q], int(t_Q[-1])
        for name, memory in memories.items():
            begin = last if memory.stored else int(max(low, int(t_Q[0]) - memory.size))
            inside = slice(stop - last, stop - begin)
            ago_QW = t_Q[:, None] - torch.arange(last - 1, begin - 1, -1, device=t_Q.device)
            ago_QW = ago_QW.masked_fill(ago_QW > (t_Q - _begin(t_Q, starts))[:, None], 0)
            found = memory.recalled(query_QD, Window(h_WD[inside], labels_W[inside], ago_QW), TOP)
            if found is not None:
                place_QK = found.place_QK if memory.stored else t_Q[:, None] - found.place_QK
                neighbours[name] += _rows(found.share_QK, place_QK, found.label_QK, found.share_QK, found.distance_QK)
                guesses[name] += _rows(found.vote_QG, found.class_QG, found.vote_QG)
    return {name: rows for name, rows in neighbours.items() if rows}, {k: rows for k, rows in guesses.items() if rows}


def _begin(t_Q: Tensor, starts: Sequence[int]) -> Tensor:
    """The last of the starts at or before each token, 0 before all of them."""
    known = torch.tensor([0, *starts], device=t_Q.device)
    return known[torch.searchsorted(known, t_Q, right=True) - 1]


def _rows(share: Tensor, *columns: Tensor) -> list[list[list[Any]]]:
    """Side by side what stands in each column where there is a share."""
    tables = zip(share.tolist(), *(column.tolist() for column in columns), strict=True)
    return [[list(row) for held, *row in zip(*token, strict=True) if held > 0] for token in tables]


def model_guesses(model: LanguageModel, segments: Sequence[Segment], first: int, stop: int) -> Guesses:
    """The model's first guesses at the tokens ``first`` to ``stop``, with their probabilities."""
    found: Guesses = []
    with reading(model):
        for segment in segments:
            for h_QD in torch.split(segment.part(first, stop).hidden[0], QUERIES):
                top = model.head.log_prob(h_QD).topk(min(TOP, model.num_types))
                p_QG = top.values.exp()
                found += _rows(p_QG, top.indices, p_QG)
    return found


def activation_lengths(segments: Sequence[Segment], first: int, stop: int) -> dict[str, float]:
    """What distances are held against: how long activations are, and how far apart two of the passage are.

    ``length`` is their mean length, ``apart`` the root of the mean squared distance of two tokens drawn at random.
    """
    h_PD = torch.cat([segment.part(first, stop).hidden[0] for segment in segments]).double()
    spread = float((h_PD - h_PD.mean(0)).square().sum(1).mean())
    return {"length": float(h_PD.norm(dim=1).mean()), "apart": math.sqrt(2 * spread)}
