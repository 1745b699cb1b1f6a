r"""What the nearest pairs say: each votes for its label, the nearer the more.

Shape suffixes: Q queries, K neighbours, S settings of k, T temperatures.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.memory.store import check_whole


def check_kernel(ks: Sequence[int], temperatures: Sequence[float]) -> None:
    """Raise InputError unless these are numbers of neighbours and temperatures."""
    if not ks or not temperatures:
        raise InputError(f"ks is {list(ks)} and temperatures {list(temperatures)}; expected one or more of each.")
    for k in ks:
        check_whole("k", k)
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature is {temperature}; expected a finite number above 0.")


def vote(
    squared_QK: Tensor, right_QK: Tensor, ks: Sequence[int], temperatures: Sequence[float], dtype: torch.dtype
) -> Tensor:
    r"""-log of the share that the right ones have among the first k, :math:`\propto \exp(-d^2 / \mathrm{temperature})`.

    Args:
        squared_QK: squared distances, the nearest first; infinite where there is no pair.
        right_QK: whether it has the label.
        ks, temperatures: the grid.
        dtype: of the result.

    Returns:
        [S, T, Q], infinite where none of the k has the label.
    """
    nll_STQ = squared_QK.new_empty(len(ks), len(temperatures), len(squared_QK), dtype=dtype)
    if not squared_QK.shape[1]:
        return nll_STQ.fill_(math.inf)
    # Less the nearest one's, and of the right ones less the nearest right one's: the largest summand of each is 1.
    nearest_Q1 = squared_QK[:, :1].double().nan_to_num(posinf=0.0)
    farther_QK = squared_QK - nearest_Q1
    right_QK = torch.where(right_QK, farther_QK, math.inf)
    first_Q1, rank_Q1 = right_QK.min(1, keepdim=True)
    right_QK -= first_Q1.nan_to_num(posinf=0.0)
    for t, temperature in enumerate(temperatures):
        weight_QK, rightful_QK = (far_QK.div(-temperature).exp_() for far_QK in (farther_QK, right_QK))
        for s, k in enumerate(ks):
            nll_Q = weight_QK[:, :k].sum(1).log_().sub_(rightful_QK[:, :k].sum(1).log_())
            nll_Q += first_Q1[:, 0] / temperature
            nll_STQ[s, t] = nll_Q.masked_fill_((rank_Q1[:, 0] >= k) | first_Q1[:, 0].isinf(), math.inf)
    return nll_STQ
