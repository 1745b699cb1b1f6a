"""The rows of a trained layer in few numbers: their mean and covariance, and the classes that stand for all.

Shapes: V classes, D features, S classes that stand for all.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Total: TypeAlias = Callable[[Tensor], Tensor]
STAND_INS = 2048  # S at most: of more classes the most frequent half of S, and a sample of the rest

_ROWS = 8192  # that are held in float64 at a time


def as_it_is(x: Tensor) -> Tensor:
    """The sum over all processes, where one has all classes."""
    return x


def moments_of_rows(weight: Tensor, share_V: Tensor, total: Total = as_it_is) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of the rows by these shares, in float64, of which few rows are at a time.

    Rows without a share are left out, not weighed with 0: so they change no rounding either. ``total``: where each
    process has some of the classes, the sum over all of them of a tensor.
    """
    at_N = (share_V > 0).nonzero()[:, 0]
    row_D = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    T_DD = row_D.new_zeros(len(row_D), len(row_D))
    for at in at_N.split(_ROWS):  # type: ignore[no-untyped-call]
        row_D += share_V[at] @ weight[at].double()
    row_D = total(row_D)
    for at in at_N.split(_ROWS):  # type: ignore[no-untyped-call]
        away_ND = weight[at].double() - row_D
        T_DD += away_ND.t() @ (away_ND * share_V[at, None])
    return row_D, total(T_DD)


class Rows(NamedTuple):
    """What a look at a trained layer takes of its rows, in float64."""

    mean_D: Tensor
    covariance_DD: Tensor
    rows_SD: Tensor
    bias_S: Tensor | None
    share_S: Tensor
    times_S: Tensor
    num_classes: int
    """that are trained"""


def rows_of(weight: Tensor, bias: Tensor | None, occurrences: Tensor, stand_ins: int = STAND_INS) -> Rows:
    """Of rows [V, D], biases [V] or None, and how often each class occurred in training [V]."""
    share_V = occurrences.double() / occurrences.sum()
    row_D, T_DD = moments_of_rows(weight, share_V)
    at_S, times_S = stand_ins_for(share_V, stand_ins)
    bias_S = None if bias is None else bias[at_S].double()
    return Rows(row_D, T_DD, weight[at_S].double(), bias_S, share_V[at_S], times_S, int((occurrences > 0).sum()))


def stand_ins_for(share_V: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Trained classes that stand for all [S], and how many each stands for: the most frequent, a sample of the rest."""
    known = (share_V > 0).nonzero()[:, 0]
    if len(known) <= most:
        return known, torch.ones_like(share_V[known])
    order = known[share_V[known].argsort(descending=True, stable=True)]
    top, rest = order[: most // 2], order[most // 2 :]
    drawn = torch.randperm(len(rest), generator=fixed_generator(), device="cpu")[: most - len(top)].to(rest.device)
    times = torch.full((len(drawn),), len(rest) / len(drawn), dtype=share_V.dtype, device=share_V.device)
    return torch.cat([top, rest[drawn]]), torch.cat([torch.ones_like(share_V[top]), times])


def fixed_generator() -> torch.Generator:
    """The same draws each time."""
    return torch.Generator("cpu").manual_seed(0)
