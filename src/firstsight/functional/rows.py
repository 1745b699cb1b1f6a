"""The rows of a trained layer in few numbers: their mean and covariance, and the classes that stand for all.

Shapes: V classes, D features, S classes that stand for all.
"""

import torch
from torch import Tensor

_ROWS = 8192  # that are held in float64 at a time


def moments_of_rows(weight: Tensor, share_V: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of the rows by these shares, in float64, of which few rows are at a time.

    Rows without a share are left out, not weighed with 0: so they change no rounding either.
    """
    at_N = (share_V > 0).nonzero()[:, 0]
    row_D = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    T_DD = row_D.new_zeros(len(row_D), len(row_D))
    for at in at_N.split(_ROWS):  # type: ignore[no-untyped-call]
        row_D += share_V[at] @ weight[at].double()
    for at in at_N.split(_ROWS):  # type: ignore[no-untyped-call]
        away_ND = weight[at].double() - row_D
        T_DD += away_ND.t() @ (away_ND * share_V[at, None])
    return row_D, T_DD


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
