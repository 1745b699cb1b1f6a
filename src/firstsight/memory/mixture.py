"""The model and its memories, mixed.

[...] is [N] or [B, N]: tokens of one stream, or of B side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX, linear_cross_entropy
from firstsight.memory.cache import NeuralCache
from firstsight.memory.mbpa import MbPA
from firstsight.memory.rows import Rows
from firstsight.memory.store import Memory

CACHE_WEIGHT, MBPA_WEIGHT = 0.1, 0.04  # the paper's choice (appendix A.2)


def score_stream(
    head: Any,
    hidden: Tensor,
    target: Tensor,
    *,
    cache: NeuralCache | None = None,
    cache_weight: float | None = None,
    mbpa: MbPA | None = None,
    mbpa_weight: float | None = None,
) -> Tensor:
    r"""NLL of a stream under a model and its memories, each token scored from the pairs before it.

    .. math:: p = (1 - \lambda_\mathrm{cache} - \lambda_\mathrm{mbpa})\, p_\mathrm{lm}
              + \lambda_\mathrm{cache}\, p_\mathrm{cache} + \lambda_\mathrm{mbpa}\, p_\mathrm{mbpa}

    A memory that is still empty gives its weight to the model. The memories carry on from call to call until their
    ``reset()``. Source: paper, appendix A.2 and its secondary sources; the empty memory is our decision.

    Args:
        head: the output layer: anything with ``weight`` [V, D] and ``bias`` [V] or None, as ``nn.Linear``.
        hidden: [N, D] float, or [B, N, D]: B streams, each with memories of its own.
        target: [N] or [B, N] int64 in [0, V); -100 stands for no token: scored 0 and not remembered.
        cache, mbpa: the memories, or None.
        cache_weight, mbpa_weight: lambda of each, in [0, 1], together 1 at most; None: the paper's 0.1 and 0.04.

    Returns:
        As ``target``, in nats, float32 at least, without a graph.

    Raises:
        InputError: (a ``ValueError``) a weight is not as above or is that of a memory that is not given, or see
            :meth:`NeuralCache.nll` and :meth:`MbPA.nll`. Both memories then stay as they were.
    """
    weights = _weights((cache, cache_weight, CACHE_WEIGHT, "cache"), (mbpa, mbpa_weight, MBPA_WEIGHT, "mbpa"))
    rows = Rows(head, hidden)
    memories: list[Memory] = [memory for memory in (cache, mbpa) if memory is not None]
    for memory in [Memory(1, None), *memories]:
        memory.check(hidden, target, len(rows.weight_VD))
    fresh = [_first(memory.empty(hidden), target) for memory in memories]
    with torch.inference_mode(False), torch.no_grad():
        nll = linear_cross_entropy(
            hidden, rows.weight_VD, target, rows.bias_V, reduction="none", compute_dtype=rows.dtype
        )
        found = [] if cache is None else [cache.nll(hidden, target)]
        found += [] if mbpa is None else [mbpa.nll(head, hidden, target)]
        parts = [
            (torch.where(first, nll, memory_nll), weight)
            for first, memory_nll, weight in zip(fresh, found, weights, strict=True)
        ]
        return torch.where(target == IGNORE_INDEX, nll, mix(nll, parts)) if parts else nll


def mix(nll: Tensor, parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    r"""NLL of a mixture.

    .. math:: -\log\Big((1 - \sum_i \lambda_i) e^{-\mathrm{nll}} + \sum_i \lambda_i e^{-\mathrm{nll}_i}\Big)

    In log space, so that no small probability is lost; a part of weight 0 takes no part at all, infinite or not.

    Args:
        nll: [...] of the model, in nats.
        parts: NLL [...] and weight of each memory.

    Raises:
        InputError: (a ``ValueError``) a weight is outside [0, 1], or they sum to more than 1.
    """
    _check_weights({f"weight {i}": weight for i, (_, weight) in enumerate(parts)})
    for part, _ in parts:
        if part.shape != nll.shape:
            raise InputError(
                f"nll is {list(nll.shape)} and a part {list(part.shape)}; expected the same tokens in both."
            )
    rest = max(0.0, 1 - sum(weight for _, weight in parts))
    terms = [(nll, rest), *parts]
    logs = [torch.log(nll.new_tensor(weight)) - part for part, weight in terms if weight > 0]
    return -torch.logsumexp(torch.stack(logs), 0) if len(terms) > 1 else nll


def _first(empty: Tensor, target: Tensor) -> Tensor:
    """Bool [...]: the first token that counts of each stream whose memory is empty."""
    counts = target != IGNORE_INDEX
    return counts & (counts.cumsum(-1) == 1) & empty[..., None]


def _weights(*given: tuple[Memory | None, float | None, float, str]) -> list[float]:
    found = {}
    for memory, weight, default, name in given:
        if memory is not None:
            found[f"{name}_weight"] = default if weight is None else weight
        elif weight:
            raise InputError(f"{name}_weight is {weight}, but no {name} is given; give {name}=, or leave it out.")
    _check_weights(found)
    return list(found.values())


def _check_weights(weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        if not 0 <= weight <= 1:
            raise InputError(f"{name} is {weight}; expected a share of the mixture, 0 to 1.")
    if sum(weights.values()) > 1 + 1e-9:
        given = " and ".join(f"{name} {weight}" for name, weight in weights.items())
        raise InputError(f"{given} sum to more than 1; what they leave of 1 is the model's share.")
