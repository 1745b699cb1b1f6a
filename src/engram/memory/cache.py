"""The neural cache: the words of late, each as likely as its activation then is like the one now.

Shape suffixes: N tokens of a call, Q queries of a block, M the pairs that a query sees, W those that a block sees,
D features, T temperatures, S sizes, P pairs of a query and a seen one with its label.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engram.errors import InputError
from engram.memory.store import Memory, Store, check_rate, slices

LOG2_E, LN_2 = 1 / math.log(2), math.log(2)
# Scores of a block: on a CPU they should stay near the cache, and still be a matrix product worth its name.
_SCORES = {"cpu": 2**20, "cuda": 2**26}


class CacheGrid(Memory):
    """Neural caches of several temperatures and sizes over the same stream, from one set of scores.

    Arguments, attributes and errors as :class:`NeuralCache`, with ``thetas`` and ``sizes`` in place of one each.
    """

    def __init__(self, thetas: Sequence[float], sizes: Sequence[int], *, block: int | None = None) -> None:
        if not thetas or not sizes:
            raise InputError(f"thetas is {list(thetas)} and sizes {list(sizes)}; expected one or more of each.")
        for theta in thetas:
            check_rate("theta", theta)
        super().__init__(min(sizes), block)  # an error names the size that is too small
        self.size = max(sizes)
        self.thetas, self.sizes = tuple(thetas), tuple(sizes)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """As :meth:`NeuralCache.nll`: [T, S, N], or [T, S, B, N] for B streams."""
        self.check(hidden, target)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            return self._each(hidden, target, self._score, (len(self.thetas), len(self.sizes)))

    def remember(self, hidden: Tensor, target: Tensor) -> None:
        """Take in the pairs as :meth:`nll` does, without scoring them."""
        self.check(hidden, target)

        def score(store: Store, h_ND: Tensor, y_N: Tensor) -> Tensor:
            store.append(h_ND, y_N)
            return h_ND.new_zeros(len(y_N))

        with torch.inference_mode(False), torch.no_grad():
            self._each(hidden, target, score, ())

    def _score(self, store: Store, h_ND: Tensor, y_N: Tensor) -> Tensor:
        start = store.append(h_ND, y_N)
        keys, labels = store.columns
        nll_TSN = h_ND.new_empty(len(self.thetas), len(self.sizes), len(y_N))
        most = min(self.size, store.end)
        block = min(self.block or max(16, min(1024, _SCORES[kind(h_ND)] // most)), len(y_N))
        equal = _Equal(labels[store.window(start).start : store.end], len(y_N), self.size)
        scratch = h_ND.new_empty(2, block * (most + block))
        scale = (max(self.thetas) or 1.0) * LOG2_E
        for q in slices(len(y_N), block):
            scores_QM = banded(h_ND[q] * scale, keys, start + q.start, self.size, scratch[0])
            nll_TSN[..., q] = self._log_sums(scores_QM, equal.pairs(q, scores_QM.shape[1]), scratch[1])
        return nll_TSN

    def _log_sums(self, scores_QM: Tensor, pairs: tuple[Tensor, Tensor], scratch: Tensor) -> Tensor:
        """log of all over log of the right ones, [T, S, Q] in nats; ``scores_QM`` is used up."""
        (Q, M), top, last = scores_QM.shape, max(self.thetas) or 1.0, len(self.thetas) - 1
        edges = [min(size, M) for size in sorted(set(self.sizes))]
        query_P, column_P = pairs
        score_P = scores_QM[query_P, column_P]
        # A pair counts for every size that reaches back to it: it goes to the smallest, and the sums are added up.
        bounds = torch.tensor(edges, device=scores_QM.device)
        slot_P = query_P + Q * torch.bucketize(M - column_P, bounds).clamp(max=len(edges) - 1)
        right = [_log_sum_by_slot(score_P * (theta / top), slot_P, len(edges) * Q) for theta in self.thetas]
        every: list[list[Tensor]] = [[] for _ in self.thetas]
        for near, far in zip([0, *edges], edges, strict=False):
            part_QS = scores_QM[:, M - far : M - near]
            if near == far:
                for row in every:
                    row.append(scores_QM.new_full((Q,), -math.inf))
                continue
            max_Q1 = part_QS.amax(1, keepdim=True).clamp(min=torch.finfo(scores_QM.dtype).min)
            for t, theta in enumerate(self.thetas):
                e_QS = part_QS if t == last else scratch[: part_QS.numel()].view(part_QS.shape)
                torch.sub(part_QS, max_Q1, out=e_QS)
                if theta != top:
                    e_QS.mul_(theta / top)
                if theta == 0:
                    e_QS.nan_to_num_(nan=-math.inf)  # where there is no pair: -inf times 0
                sum_Q = e_QS.exp2_().sum(1)
                every[t].append(max_Q1[:, 0] * (theta / top) + sum_Q.log2())
        place = [sorted(set(self.sizes)).index(size) for size in self.sizes]
        found = []
        for t in range(len(self.thetas)):
            all_SQ = _running(torch.stack(every[t]))
            right_SQ = _running(right[t].view(len(edges), Q))
            nll_SQ = torch.where(right_SQ == -math.inf, math.inf, all_SQ - right_SQ) * LN_2
            found.append(nll_SQ[place])
        return torch.stack(found)


class NeuralCache(CacheGrid):
    r"""The neural cache of Grave et al. (2016) over the last n pairs of a stream, exact.

    .. math:: p_\mathrm{cache}(w \mid h_t) \propto \sum_{j = t - n}^{t - 1} 1\{y_j = w\} \exp(\theta\, h_t \cdot h_j)

    In blocks of queries: one matrix product gives the scores of a block, each row's own n of them are a view of it,
    and all is summed in log space, so no temperature or length overflows. Cost: O(N n D) for N tokens; memory: the
    pairs held and the scores of a block. Source: paper, appendix A.2, whose choice the defaults are.

    Args:
        size: n, how many pairs count, 1 or more.
        theta: inverse temperature, finite, 0 or more.
        block: queries at once; it changes speed and memory only. None: what suits the device.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above.
    """

    def __init__(self, size: int = 10_000, theta: float = 0.3, *, block: int | None = None) -> None:
        super().__init__([theta], [size], block=block)
        self.theta = theta

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        r""":math:`-\log p_\mathrm{cache}(y_t \mid h_t)` from the pairs before t, which then are remembered too.

        Calls go on where the last one ended: two calls on two halves equal one on the whole.

        Args:
            hidden: [N, D] float, or [B, N, D]: B streams, each with a memory of its own. Not NaN.
            target: [N] or [B, N] int64, 0 or more; -100 stands for no pair: scored 0 and not remembered.

        Returns:
            As ``target``, in nats, float32 at least, without a graph; infinite where no pair that counts has the
            label, so at the first token of a stream too.

        Raises:
            InputError: (a ``ValueError``) a shape, dtype or label is not as above, or the memory holds pairs of another
                width, dtype, device or number of streams. The memory stays as it was.
        """
        return super().nll(hidden, target)[0, 0]


class _Equal:
    """For each query of a chunk, the pairs before it that have its label: one sort for all of them."""

    def __init__(self, labels_M: Tensor, queries: int, size: int) -> None:
        total, self.before = len(labels_M), len(labels_M) - queries
        self.order_M = torch.argsort(labels_M, stable=True)
        rank_M = torch.empty_like(self.order_M)
        rank_M[self.order_M] = torch.arange(total, device=labels_M.device)
        key_M = labels_M * total + torch.arange(total, device=labels_M.device)
        oldest_N = torch.arange(self.before - size, total - size, device=labels_M.device).clamp(min=0)
        first_N = torch.searchsorted(key_M[self.order_M], labels_M[self.before :] * total + oldest_N)
        self.first_N, self.count_N = first_N, rank_M[self.before :] - first_N

    def pairs(self, q: slice, width: int) -> tuple[Tensor, Tensor]:
        """Rows and columns [P] in the scores [Q, width] of these queries, where a label is the right one."""
        count_Q = self.count_N[q]
        query_P = torch.repeat_interleave(count_Q)
        before_Q = count_Q.cumsum(0) - count_Q
        nth_P = torch.arange(len(query_P), device=query_P.device) - before_Q[query_P]
        position_P = self.order_M[self.first_N[q][query_P] + nth_P]
        return query_P, position_P - (self.before + q.start + query_P - width)


def banded(h_QD: Tensor, keys: Tensor, start: int, size: int, scratch: Tensor) -> Tensor:
    """The scores of queries with the pairs before each, [Q, M], the nearest last; -inf where there is none.

    The query at row q stands at position ``start + q`` of ``keys`` and sees the M before it: in the scores [Q, W] of
    all that the block sees, its own begin one further each row, so a view with a row's stride of W + 1 holds them.
    """
    Q = len(h_QD)
    M = min(size, start + Q - 1)
    W, missing = M + Q - 1, max(0, M - start)
    scores_QW = scratch[: Q * W].view(Q, W)
    scores_QW[:, :missing] = -math.inf
    torch.mm(h_QD, keys[start - M + missing : start + Q - 1].t(), out=scores_QW[:, missing:])
    return scores_QW.as_strided((Q, M), (W + 1, 1))


def _log_sum_by_slot(score_P: Tensor, slot_P: Tensor, slots: int) -> Tensor:
    """log2 of the sum of 2^score in each slot; -inf in one without a score."""
    max_S = score_P.new_full((slots,), -math.inf).scatter_reduce_(0, slot_P, score_P, "amax")
    sum_S = score_P.new_zeros(slots).index_add_(0, slot_P, (score_P - max_S[slot_P]).exp2_())
    return max_S + sum_S.log2_()


def _running(log_SQ: Tensor) -> Tensor:
    """log2 of the sums of 2^x over the rows up to each."""
    for s in range(1, len(log_SQ)):
        log_SQ[s] = torch.logaddexp2(log_SQ[s - 1], log_SQ[s])
    return log_SQ


def kind(tensor: Tensor) -> str:
    """Which of our block sizes fits."""
    return "cpu" if tensor.device.type == "cpu" else "cuda"
