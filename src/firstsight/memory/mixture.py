"""The model and its memories, mixed.

[...] is [N] or [B, N]: tokens of one stream, or of B side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX, linear_cross_entropy
from firstsight.memory.cache import NeuralCache
from firstsight.memory.mbpa import MbPA
from firstsight.memory.rows import Rows
from firstsight.memory.store import Memory, check_pairs

CACHE_WEIGHT, MBPA_WEIGHT = 0.1, 0.04  # the paper's choice (appendix A.2)

_Given: TypeAlias = tuple[Memory | None, float | None, float, str]  # its weight, the default, its name in errors


def score_stream(
    head: Any,
    hidden: Tensor,
    target: Tensor,
    *,
    cache: NeuralCache | None = None,
    cache_weight: float | None = None,
    mbpa: MbPA | None = None,
    mbpa_weight: float | None = None,
    memories: Mapping[Memory, float] | None = None,
) -> Tensor:
    r"""NLL of a stream under a model and its memories, each token scored from the pairs before it.

    .. math:: p = \Big(1 - \sum_i \lambda_i\Big)\, p_\mathrm{lm} + \sum_i \lambda_i\, p_i

    over the memories i: neural cache, MbPA, and any others. A memory that is still empty gives its weight to the model.
    The memories carry on from call to call until their ``reset()``. Source: paper, appendix A.2 and its secondary
    sources; the empty memory is our decision.

    Args:
        head: the output layer: anything with ``weight`` [V, D] and ``bias`` [V] or None, as ``nn.Linear``.
        hidden: [N, D] float, or [B, N, D]: B streams, each with memories of its own.
        target: [N] or [B, N] int64 in [0, V); -100 stands for no token: scored 0 and not remembered.
        cache, mbpa: the memories, or None.
        cache_weight, mbpa_weight: lambda of each, in [0, 1], together 1 at most; None: the paper's 0.1 and 0.04.
        memories: more memories, each with its lambda.

    Returns:
        As ``target``, in nats, float32 at least, without a graph.

    Raises:
        InputError: (a ``ValueError``) a weight is not as above or is that of a memory that is not given, or see
            :meth:`NeuralCache.nll` and :meth:`MbPA.nll`. All memories then stay as they were.
    """
    named: list[_Given] = [(cache, cache_weight, CACHE_WEIGHT, "cache"), (mbpa, mbpa_weight, MBPA_WEIGHT, "mbpa")]
    named += [(memory, weight, 0.0, f"{type(memory).__name__}'s") for memory, weight in (memories or {}).items()]
    weights = _weights(named)
    rows = Rows(head, hidden)
    check_pairs(hidden, target, len(rows.weight_VD))
    for memory in weights:
        memory.check(hidden, target, len(rows.weight_VD))
    with torch.inference_mode(False), torch.no_grad():
        nll = linear_cross_entropy(
            hidden, rows.weight_VD, target, rows.bias_V, reduction="none", compute_dtype=rows.dtype
        )
        parts = [(recall(memory, head, hidden, target, nll), weight) for memory, weight in weights.items()]
        return torch.where(target == IGNORE_INDEX, nll, mix(nll, parts)) if parts else nll


def recall(memory: Memory, head: Any, hidden: Tensor, target: Tensor, nll: Tensor) -> Tensor:
    """A memory's NLL of each pair from those before it: the model's own, ``nll`` [...], where it holds none yet."""
    counts = target != IGNORE_INDEX
    first = counts & (counts.cumsum(-1) == 1) & memory.empty(hidden)[..., None]
    return torch.where(first, nll, memory.read(head, hidden, target))


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


def _weights(given: list[_Given]) -> dict[Memory, float]:
    found, names = {}, {}
    for memory, weight, default, name in given:
        if memory is not None:
            found[memory] = names[f"{name}_weight"] = default if weight is None else weight
        elif weight:
            raise InputError(f"{name}_weight is {weight}, but no {name} is given; give {name}=, or leave it out.")
    _check_weights(names)
    return found


def _check_weights(weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        if not 0 <= weight <= 1:
            raise InputError(f"{name} is {weight}; expected a share of the mixture, 0 to 1.")
    if sum(weights.values()) > 1 + 1e-9:
        given = " and ".join(f"{name} {weight}" for name, weight in weights.items())
        raise InputError(f"{given} sum to more than 1; what they leave of 1 is the model's share.")
