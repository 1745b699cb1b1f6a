r"""What the nearest pairs say: each votes for its label, the nearer the more.

Shape suffixes: N tokens of a call, Q queries, K neighbours, D features, W keys, S settings of k, T temperatures.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.memory.datastore.files import Array
from firstsight.memory.store import Memory, check_whole, sum_dtype


class Voting(Memory):
    """A memory whose nearest pairs vote; ``KNN`` and ``UnboundedCache`` are such.

    Args:
        ks: numbers of neighbours, each 1 or more.
        temperatures: each finite and above 0.
    """

    def __init__(self, ks: Sequence[int], temperatures: Sequence[float]) -> None:
        if not ks or not temperatures:
            raise InputError(f"ks is {list(ks)} and temperatures {list(temperatures)}; expected one or more of each.")
        for k in ks:
            check_whole("k", k)
        for temperature in temperatures:
            if not 0 < temperature < math.inf:
                raise InputError(f"temperature is {temperature}; expected a finite number above 0.")
        super().__init__(1, None)
        self.ks, self.temperatures = tuple(ks), tuple(temperatures)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        r""":math:`-\log p(y \mid h)` of each pair.

        Args:
            hidden: [N, D] float, or [B, N, D]: B streams. Not NaN.
            target: [N] or [B, N] int64, 0 or more; -100 stands for no pair: scored 0.

        Returns:
            As ``target`` ([S, T, ...] of a grid), in nats, float32 at least, without a graph; infinite where none of
            the k nearest has the label.

        Raises:
            InputError: (a ``ValueError``) a shape, dtype or label is not as above, or the pairs are of another width
                than the keys. The memory stays as it was.
        """
        return self.read(None, hidden, target)

    def affinity(self, query_QD: Tensor, keys_WD: Tensor) -> Tensor | None:
        """The exponent, of the first temperature; not in the expanded form, whose rounding hides what is the same."""
        distance_QW = torch.cdist(query_QD, keys_WD, compute_mode="donot_use_mm_for_euclid_dist")
        return distance_QW.square_().div_(-self.temperatures[0])

    def shares(self, score_QW: Tensor) -> Tensor:
        """The kernel of the k nearest, of the first k."""
        order_QK = score_QW.sort(dim=1, descending=True, stable=True).indices[:, : self.ks[0]]
        near_QK = score_QW.gather(1, order_QK).softmax(1).nan_to_num(0.0)  # where no pair is held
        return torch.zeros_like(score_QW).scatter_(1, order_QK, near_QK)

    def _votes(self, squared_QK: Tensor, index_QK: Tensor, labels: Array, target_Q: Tensor) -> Tensor:
        """The NLL [S, T, Q] of labels, from distances and entries of the nearest, and the labels of all entries."""
        label_QK = torch.from_numpy(labels[index_QK.cpu().numpy()]).to(target_Q.device)
        right_QK = (label_QK == target_Q[:, None]) & (index_QK >= 0)
        return vote(squared_QK, right_QK, self.ks, self.temperatures)

    def _found(self, hidden: Tensor, target: Tensor, score: bool) -> Tensor:
        """Where a call's NLL go, and zeros elsewhere."""
        lead = (len(self.ks), len(self.temperatures)) if score else ()
        return hidden.new_zeros(*lead, *target.shape, dtype=sum_dtype(hidden))

    def _shown(self, found: Tensor, score: bool) -> Tensor:
        return found[0, 0] if self._single and score else found


def vote(squared_QK: Tensor, right_QK: Tensor, ks: Sequence[int], temperatures: Sequence[float]) -> Tensor:
    r"""-log of the share that the right ones have among the first k, :math:`\propto \exp(-d^2 / \mathrm{temperature})`.

    Args:
        squared_QK: squared distances, the nearest first; infinite where there is no pair.
        right_QK: whether it has the label.
        ks, temperatures: the grid.

    Returns:
        [S, T, Q] float64, infinite where none of the k has the label.
    """
    nll_STQ = squared_QK.new_empty(len(ks), len(temperatures), len(squared_QK), dtype=torch.float64)
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
