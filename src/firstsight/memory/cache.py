"""The neural cache: the words of late, each as likely as its activation then is like the one now.

Shape suffixes: N tokens of a call, Q queries of a block, M the pairs that a query sees, W those that a block sees,
D features, T temperatures, S sizes, P pairs of a query and a seen one with its label.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiling.tiles import LN_2, LOG2_E, kind, slices
from firstsight.memory.store import Memory, Store, check_rate

# Scores of a block: on a CPU they should stay near the cache, and still be a matrix product worth its name.
_SCORES = {"cpu": 2**20, "cuda": 2**26}
_PAIRS = 2**20  # pairs with the right label that are worked on at once
# Scores whose size stays below this, to base 2, are summed as they are: 2^100 times 2^27 pairs is still a float32, and
# so is 2^-100. Lengths of activations say beforehand whether they do.
_NO_SHIFT = 100


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
        self._ascending, self._top = sorted(set(sizes)), max(thetas) or 1.0

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        r""":math:`-\log p_\mathrm{cache}(y_t \mid h_t)` from the pairs before t, which then are remembered too.

        Calls go on where the last one ended: two calls on two halves equal one on the whole.

        Args:
            hidden: [N, D] float, or [B, N, D]: B streams, each with a memory of its own. Not NaN.
            target: [N] or [B, N] int64, 0 or more; -100 stands for no pair: scored 0 and not remembered.

        Returns:
            As ``target`` ([T, S, ...] of a grid), in nats, float32 at least, without a graph; infinite where no pair
            that counts has the label, so at the first token of a stream too.

        Raises:
            InputError: (a ``ValueError``) a shape, dtype or label is not as above, or the memory holds pairs of another
                width, dtype, device or number of streams. The memory stays as it was.
        """
        return self.read(None, hidden, target)

    def remember(self, hidden: Tensor, target: Tensor) -> None:
        """Take in the pairs as :meth:`nll` does, without scoring them."""
        self.read(None, hidden, target, score=False)

    def read(self, head: Any, hidden: Tensor, target: Tensor, *, score: bool = True) -> Tensor:
        """As :meth:`Memory.read`; the output layer is of no account."""
        self.check(hidden, target)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            if score:
                return self._each(hidden, target, self._score, (len(self.thetas), len(self.sizes)))
            return self._each(hidden, target, self._take_in, ())

    def affinity(self, query_QD: Tensor, keys_WD: Tensor) -> Tensor:
        """theta h . h_j, of the first theta; their shares are the softmax of it."""
        return self.thetas[0] * (query_QD @ keys_WD.t())

    def _take_in(self, store: Store, h_ND: Tensor, y_N: Tensor) -> Tensor:
        store.append(h_ND, y_N)
        return h_ND.new_zeros(len(y_N))

    def _score(self, store: Store, h_ND: Tensor, y_N: Tensor) -> Tensor:
        start = store.append(h_ND, y_N)
        seen, most = slice(store.window(start).start, store.end), min(self.size, store.end)
        keys_DW = store.columns[0][seen].t()
        # A block of Q sees M + Q - 1 pairs where each query needs M: a short window wants few queries.
        block = min(self.block or max(16, min(_SCORES[kind(h_ND)] // most, max(64, most // 8))), len(y_N))
        equal = _Equal(store.columns[1][seen], len(y_N), self.size)
        scratch = h_ND.new_empty(2, block * (most + block))
        h2_ND = h_ND * (self._top * LOG2_E)
        small = bool(h2_ND.norm(dim=1).max() * keys_DW.norm(dim=0).max() < _NO_SHIFT)
        all_TSN, right_TSN = h_ND.new_empty(2, len(self.thetas), len(self.sizes), len(y_N))
        for blocks in equal.groups(block):
            group, done = slice(blocks[0][0].start, blocks[-1][0].stop), 0
            query_P, position_P = equal.pairs(group)
            score_P = h_ND.new_empty(len(query_P))
            for q, pairs in blocks:
                first = equal.before + q.start
                scores_QM = banded(h2_ND[q], keys_DW, first, self.size, scratch[0])
                (Q, M), p, done = scores_QM.shape, slice(done, done + pairs), done + pairs
                # Where the pairs stand in the block's own scores: a gather by one index is the faster one.
                place_P = (query_P[p] - q.start).mul_(M + Q - 1).add_(position_P[p]).add_(M - first)
                torch.index_select(scratch[0], 0, place_P, out=score_P[p])
                all_TSN[..., q] = self._all(scores_QM, scratch[1], small)
            age_P = query_P + equal.before - position_P
            right_TSN[..., group] = self._right(score_P, query_P - group.start, age_P, group.stop - group.start, small)
        return torch.where(right_TSN == -math.inf, math.inf, all_TSN - right_TSN) * LN_2

    def _right(self, score_P: Tensor, query_P: Tensor, age_P: Tensor, Q: int, small: bool) -> Tensor:
        """log2 of the sum over the pairs with the query's label, [T, S, Q]."""
        S, slot_P = len(self._ascending), query_P
        if S > 1:  # a pair goes to the smallest size that reaches back to it; the sums are added up below
            slot_P = query_P + Q * torch.bucketize(age_P, torch.tensor(self._ascending, device=age_P.device))
        sums = [_log_sum_by_slot(score_P * (theta / self._top), slot_P, S * Q, small) for theta in self.thetas]
        return torch.stack([self._up_to(sum_SQ.view(S, Q)) for sum_SQ in sums])

    def _all(self, scores_QM: Tensor, scratch: Tensor, small: bool) -> Tensor:
        """log2 of the sum over all pairs, [T, S, Q]; ``scores_QM`` is used up."""
        (Q, M), near = scores_QM.shape, 0
        sums: list[list[Tensor]] = [[] for _ in self.thetas]
        for size in self._ascending:
            far = min(size, M)
            part_QP, near = scores_QM[:, M - far : M - near], far
            if not part_QP.shape[1]:
                for row in sums:
                    row.append(scores_QM.new_full((Q,), -math.inf))
                continue
            lowest = torch.finfo(scores_QM.dtype).min
            max_Q1 = None if small else part_QP.amax(1, keepdim=True).clamp_(min=lowest)
            for t, theta in enumerate(self.thetas):
                e_QP, ratio = part_QP, theta / self._top
                if t < len(self.thetas) - 1:
                    e_QP = scratch[: part_QP.numel()].view(part_QP.shape).copy_(part_QP)
                if max_Q1 is not None:
                    e_QP.sub_(max_Q1)
                if ratio != 1:
                    e_QP.mul_(ratio)
                if ratio == 0:
                    e_QP.nan_to_num_(nan=-math.inf)  # where there is no pair: -inf times 0
                sum_Q = e_QP.exp2_().sum(1).log2_()
                sums[t].append(sum_Q if max_Q1 is None else sum_Q.add_(max_Q1[:, 0], alpha=ratio))
        return torch.stack([self._up_to(torch.stack(rows)) for rows in sums])

    def _up_to(self, log_SQ: Tensor) -> Tensor:
        """From log2 of the sums between one size and the next to those of each size, in the order of ``sizes``."""
        if len(self.sizes) == 1:
            return log_SQ
        for s in range(1, len(log_SQ)):
            log_SQ[s] = torch.logaddexp2(log_SQ[s - 1], log_SQ[s])
        return log_SQ[[self._ascending.index(size) for size in self.sizes]]


class NeuralCache(CacheGrid):
    r"""The neural cache of Grave et al. (2016) over the last n pairs of a stream, exact.

    .. math:: p_\mathrm{cache}(w \mid h_t) \propto \sum_{j = t - n}^{t - 1} 1\{y_j = w\} \exp(\theta\, h_t \cdot h_j)

    In blocks of queries: one matrix product gives the scores of a block, each row's own n of them are a view of it,
    and all is summed in log space: as long as the scores themselves are finite, so is what they give. Cost: O(N n D)
    for N tokens; memory: up to three times the pairs held, and the scores of a block. Source: paper, appendix A.2,
    whose choice the defaults are.

    Args:
        size: n, how many pairs count, 1 or more.
        theta: inverse temperature, finite, 0 or more.
        block: queries at once; it changes speed and memory only. None: what suits the device.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above.
    """

    _single = True

    def __init__(self, size: int = 10_000, theta: float = 0.3, *, block: int | None = None) -> None:
        super().__init__([theta], [size], block=block)


class _Equal:
    """For each query of a chunk, the pairs before it that have its label: one sort for all of them."""

    def __init__(self, labels_M: Tensor, queries: int, size: int) -> None:
        total, self.before = len(labels_M), len(labels_M) - queries
        self.order_M = torch.argsort(labels_M, stable=True)
        rank_M, group_M = torch.empty_like(self.order_M), torch.empty_like(self.order_M)
        rank_M[self.order_M] = torch.arange(total, device=labels_M.device)
        sorted_M = labels_M[self.order_M]
        # The how-manieth label it is, not the label: that times a length stays an int64 whatever labels are.
        group_M[self.order_M] = F.pad(sorted_M[1:] != sorted_M[:-1], (1, 0)).cumsum(0)
        key_M = group_M * total + torch.arange(total, device=labels_M.device)
        oldest_N = torch.arange(self.before - size, total - size, device=labels_M.device).clamp(min=0)
        first_N = torch.searchsorted(key_M[self.order_M], group_M[self.before :] * total + oldest_N)
        self.first_N, self.count_N = first_N, rank_M[self.before :] - first_N

    def groups(self, block: int) -> list[list[tuple[slice, int]]]:
        """Blocks of queries and how many pairs each has, together up to ``_PAIRS``: few large operations are faster."""
        blocks = list(slices(len(self.count_N), block))
        ends = self.count_N.cumsum(0)[[q.stop - 1 for q in blocks]].tolist()
        groups: list[list[tuple[slice, int]]] = []
        begin = 0
        for q, before, end in zip(blocks, [0, *ends], ends, strict=False):
            if not groups or end - begin > _PAIRS:
                groups.append([])
                begin = before
            groups[-1].append((q, end - before))
        return groups

    def pairs(self, group: slice) -> tuple[Tensor, Tensor]:
        """All pairs of these queries with a seen one of the same label: query and position [P], by query."""
        count_Q = self.count_N[group]
        query_P = torch.repeat_interleave(count_Q)
        offset_Q = self.first_N[group] - (count_Q.cumsum(0) - count_Q)
        rank_P = offset_Q.index_select(0, query_P).add_(torch.arange(len(query_P), device=query_P.device))
        return query_P.add_(group.start), self.order_M.index_select(0, rank_P)


def banded(h_QD: Tensor, keys_DW: Tensor, start: int, size: int, scratch: Tensor) -> Tensor:
    """The scores of queries with the pairs before each, [Q, M], the nearest last; -inf where there is none.

    The query at row q stands at column ``start + q`` of ``keys`` and sees the M before it: in the scores [Q, W] of
    all that the block sees, its own begin one further each row, so a view with a row's stride of W + 1 holds them.
    """
    Q = len(h_QD)
    M = min(size, start + Q - 1)
    W, missing = M + Q - 1, max(0, M - start)
    scores_QW = scratch[: Q * W].view(Q, W)
    scores_QW[:, :missing] = -math.inf
    torch.mm(h_QD, keys_DW[:, start - M + missing : start + Q - 1], out=scores_QW[:, missing:])
    return scores_QW.as_strided((Q, M), (W + 1, 1))


def _log_sum_by_slot(score_P: Tensor, slot_P: Tensor, slots: int, small: bool) -> Tensor:
    """log2 of the sum of 2^score in each slot; -inf in one without a score."""
    if small:
        return score_P.new_zeros(slots).index_add_(0, slot_P, score_P.exp2_()).log2_()
    lowest = torch.finfo(score_P.dtype).min  # not -inf: what has overflown to it could not be taken from it
    max_S = score_P.new_full((slots,), lowest).scatter_reduce_(0, slot_P, score_P, "amax")
    sum_S = score_P.new_zeros(slots).index_add_(0, slot_P, (score_P - max_S.index_select(0, slot_P)).exp2_())
    return max_S + sum_S.log2_()
