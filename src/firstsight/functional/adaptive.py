r"""Adaptive softmax: classes in clusters by falling frequency, of which the first one's rows stand for the others too.

Shapes: V classes, K narrower clusters, [...] stands for any leading dimensions.

The first cluster holds the classes below the first cutoff :math:`c_1` and, after them, one row for each other cluster
(the *tails*). The tail k holds the classes from :math:`c_k` to :math:`c_{k+1}`, in a space of its own,
:math:`h^{(k)} = P_k h`, which is narrower:

.. math:: \log p(v \mid h) = \begin{cases}
          \log p_1(v \mid h) & v < c_1 \\
          \log p_1(\mathrm{tail}\,k \mid h) + \log p_k(v \mid P_k h) & c_k \le v < c_{k+1}
          \end{cases}

with a softmax of its own in each cluster. Source: Grave et al. (2017), "Efficient softmax approximation for GPUs".
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from operator import index, mul

import torch
from torch import Tensor

from firstsight.errors import InputError

# Where the tails begin if nobody says: near the 20,000 and 60,000 that are usual for WikiText-103 (our decision).
_SHARES = (15, 5)


def checked_cutoffs(cutoffs: Sequence[int] | None, num_classes: int) -> tuple[int, ...]:
    """Where the tails begin, rising; None: at a fifteenth and at a fifth of the classes, where those are two places.

    Args:
        cutoffs: the first class of each tail, or None; an empty one is no tail at all.
        num_classes: V.

    Raises:
        InputError: they are not whole numbers that rise, above 0 and below V.
    """
    if cutoffs is None:
        return tuple(sorted({num_classes // share for share in _SHARES} - {0}))
    given: tuple[int, ...] | None = None
    with suppress(TypeError):  # of another kind, or not one after another
        given = tuple(index(edge) for edge in cutoffs)
    if given is None or any(a >= b for a, b in zip((0, *given), (*given, num_classes), strict=True)):
        raise InputError(
            f"cutoffs is {cutoffs!r}; expected the first class of each narrower cluster, whole numbers that rise, "
            f"above 0 and below the number of classes, {num_classes}."
        )
    return given


def widths(in_features: int, tails: int, div_value: float) -> list[int]:
    r"""The width of each tail, :math:`\max(1, \lfloor D / \mathrm{div}^k \rfloor)` for k = 1, 2, ...

    Raises:
        InputError: div_value is below 1.
    """
    if isinstance(div_value, str) or not div_value >= 1:
        raise InputError(f"div_value is {div_value!r}; expected by how much each cluster is narrower, 1 or more.")
    powers = accumulate([float(div_value)] * tails, mul)
    return [max(1, int(in_features // power)) for power in powers]


def first_labels(target: Tensor, edges: Sequence[int]) -> Tensor:
    """Labels [...] in the first cluster: a class of the tail k is its row, :math:`c_1 + k`.

    Args:
        target: [...] classes; what is below 0 stays.
        edges: the cutoffs, and where the last tail ends: classes from there on came later, and have rows of the first
            cluster after those of the tails.
    """
    edge_K = torch.tensor(edges, device=target.device)
    tail = torch.bucketize(target.contiguous(), edge_K, right=True) - 1  # of a class below the first cutoff -1
    K = len(edges) - 1
    of_tail = torch.where(tail < K, edge_K[0] + tail, target - (edge_K[-1] - edge_K[0] - K))
    return torch.where(tail >= 0, of_tail, target)


def weighted_mean(nll: Tensor, target: Tensor, class_weight: Tensor, ignore_index: int) -> Tensor:
    """The mean of [...] weighted by the class weights [V] of the targets [...]; 0 where they sum to 0."""
    counts = target != ignore_index
    share = class_weight.detach().to(nll.dtype)[target.where(counts, 0)] * counts
    total = share.sum()
    return (nll * share).sum() / torch.where(total > 0, total, 1.0)
