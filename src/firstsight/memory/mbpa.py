r"""Memory-based parameter adaptation (MbPA) of the output rows: for each prediction they learn from the nearest pairs.

Shape suffixes: N tokens of a call, Q queries of a block, M the pairs that a query sees, W those that a block sees,
K neighbours, D features, V classes, C those of a tile, G settings of k, L of the rate, R = G Q rows.

One step needs no gradient for each token. With p_k the model's own distribution at h_k, the adapted logits are

.. math:: z'(h) = \theta h + b + \alpha \sum_k w_k (h_k \cdot h) (\mathrm{onehot}(y_k) - p_k)

so that a block of queries is one matrix product: their weights [Q, W], zero outside the K neighbours, with the
distributions [W, V] of all that the block sees, made tile by tile and held nowhere. (With K a tenth of what is held,
a dense product is faster than gathering.) More steps leave this form: each prediction then has rows of its own.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiling.tiles import LOG2_E, kind, slices
from firstsight.memory.neighbours import kernel, nearest
from firstsight.memory.rows import Rows, adapted_alone
from firstsight.memory.store import Memory, Store, check_rate, check_whole

_QUERIES = 1024  # of a block: the distributions are made anew for each block, so more queries share them
_TILE = {"cpu": 2**24, "cuda": 2**28}  # values of a tile of distributions


class MbPAGrid(Memory):
    """MbPA of several K and learning rates over the same stream; the rates share their matrix products.

    Arguments, attributes and errors as :class:`MbPA`, with ``ks`` and ``lrs`` in place of one each.
    """

    def __init__(
        self,
        size: int,
        ks: Sequence[int],
        lrs: Sequence[float],
        beta: float = 0.5,
        steps: int = 1,
        *,
        block: int | None = None,
    ) -> None:
        super().__init__(size, block)
        if not ks or not lrs:
            raise InputError(f"ks is {list(ks)} and lrs {list(lrs)}; expected one or more of each.")
        for name, values in (("k", ks), ("steps", [steps])):
            for value in values:
                check_whole(name, value)
        for lr in lrs:
            check_rate("lr", lr)
        check_rate("beta", beta)
        self.ks, self.lrs, self.beta, self.steps = tuple(ks), tuple(lrs), beta, steps
        self._rows_then: Tensor | None = None

    def nll(self, head: Any, hidden: Tensor, target: Tensor) -> Tensor:
        r""":math:`-\log p_\mathrm{mbpa}(y_t \mid h_t)` from the pairs before t, which then are remembered too.

        Calls go on where the last one ended. Without a pair before t it is the model's own NLL.

        Args:
            head: the output layer: anything with ``weight`` [V, D] and ``bias`` [V] or None. When it has changed since
                the last call, what is held follows it.
            hidden: [N, D] float, or [B, N, D]: B streams, each with a memory of its own. Not NaN.
            target: [N] or [B, N] int64 in [0, V); -100 stands for no pair: scored 0 and not remembered.

        Returns:
            As ``target`` ([G, L, ...] of a grid), in nats, float32 at least, without a graph.

        Raises:
            InputError: (a ``ValueError``) a shape, dtype or label is not as above, or the memory holds pairs of another
                width, dtype, device or number of streams. The memory stays as it was.
        """
        return self.read(head, hidden, target)

    def remember(self, head: Any, hidden: Tensor, target: Tensor) -> None:
        """Take in the pairs as :meth:`nll` does, without scoring them."""
        self.read(head, hidden, target, score=False)

    def reset(self) -> None:
        """Forget everything: streams, width, dtype and device may then be others."""
        super().reset()
        self._rows_then = None

    def affinity(self, query_QD: Tensor, keys_WD: Tensor) -> Tensor:
        """The distance's negative; not in the expanded form, whose rounding hides that two activations are the same."""
        return -torch.cdist(query_QD, keys_WD, compute_mode="donot_use_mm_for_euclid_dist")

    def shares(self, score_QW: Tensor) -> Tensor:
        """The kernel of the K nearest, of the first K."""
        order_QK = score_QW.sort(dim=1, descending=True, stable=True).indices[:, : self.ks[0]]
        near_QK = kernel(score_QW.gather(1, order_QK).square())
        return torch.zeros_like(score_QW).scatter_(1, order_QK, near_QK)

    def read(self, head: Any, hidden: Tensor, target: Tensor, *, score: bool = True) -> Tensor:
        """As :meth:`Memory.read`."""
        rows = Rows(head, hidden)
        self.check(hidden, target, len(rows.weight_VD))

        def read(store: Store, h_ND: Tensor, y_N: Tensor) -> Tensor:
            start = store.append(h_ND, y_N, rows.lse(h_ND))
            if not score:
                return h_ND.new_zeros(len(y_N))
            nll_GLN = h_ND.new_empty(len(self.ks), len(self.lrs), len(y_N))
            for q in slices(len(y_N), self.block or _QUERIES):
                one = self._one_step if self.steps == 1 else self._many_steps
                nll_GLN[..., q] = one(store, rows, h_ND[q], y_N[q], start + q.start)
            return nll_GLN

        with torch.inference_mode(False), torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            self._follow(rows)
            return self._each(hidden, target, read, (len(self.ks), len(self.lrs)) if score else ())

    def _follow(self, rows: Rows) -> None:
        """What is held of the distributions at the pairs is made anew when the head has changed since."""
        now = rows.state()
        if self._rows_then is None or not torch.equal(now, self._rows_then):
            for store in self._stores:
                if store.columns:
                    h_MD, _, lse_M = (column[store.end - len(store) : store.end] for column in store.columns)
                    lse_M.copy_(rows.lse(h_MD))
        self._rows_then = now

    def _one_step(self, store: Store, rows: Rows, h_QD: Tensor, y_Q: Tensor, start: int) -> Tensor:
        Q, M = len(y_Q), min(self.size, start + len(y_Q) - 1)
        keys_WD, labels_W, lse_W = (column[max(0, start - M) : start + Q - 1] for column in store.columns)
        change_RW = self._changes(store.columns[0], h_QD, start, M)
        used_W = change_RW.any(0).nonzero()[:, 0]
        if 2 * len(used_W) < len(keys_WD):  # few queries have few neighbours: the others' distributions are not needed
            keys_WD, labels_W, lse_W = keys_WD[used_W], labels_W[used_W], lse_W[used_W]
            change_RW = change_RW[:, used_W]
        change_RW = change_RW.to(rows.dtype)
        keys2_WD, h2_QD, lse2_W1 = keys_WD * LOG2_E, h_QD * LOG2_E, lse_W[:, None] * LOG2_E
        log_sum_GLQ = h_QD.new_full((len(self.ks), len(self.lrs), Q), -math.inf)
        right_GLQ = torch.empty_like(log_sum_GLQ)
        for c in slices(len(rows.weight_VD), max(256, _TILE[kind(h_QD)] // (len(keys_WD) + Q))):
            p_WC = rows.logits2(keys2_WD, c).sub_(lse2_W1).exp2_()
            inside_W = ((labels_W >= c.start) & (labels_W < c.stop)).nonzero()[:, 0]
            p_WC[inside_W, labels_W[inside_W] - c.start] -= 1
            change_GQC = (change_RW @ p_WC.to(rows.dtype)).to(p_WC.dtype).view(len(self.ks), Q, -1)
            z_QC = rows.logits2(h2_QD, c)
            inside_Q = ((y_Q >= c.start) & (y_Q < c.stop)).nonzero()[:, 0]
            for i, lr in enumerate(self.lrs):
                z_GQC = torch.sub(z_QC, change_GQC, alpha=lr * LOG2_E)
                right_GLQ[:, i, inside_Q] = z_GQC[:, inside_Q, y_Q[inside_Q] - c.start]
                log_sum_GLQ[:, i] = torch.logaddexp2(log_sum_GLQ[:, i], _log2_sum(z_GQC))
        return (log_sum_GLQ - right_GLQ) / LOG2_E

    def _changes(self, keys: Tensor, h_QD: Tensor, start: int, M: int) -> Tensor:
        """w_k (h_k . h) of each query's neighbours, 0 elsewhere: [R, W], the queries of each k in turn."""
        Q, G = len(h_QD), len(self.ks)
        change_GQW = h_QD.new_zeros(G, Q, M + Q - 1)
        if M:
            place_QK, squared_QK, dot_QK = nearest(h_QD, keys, start, M, max(self.ks))
            for change_QW, k in zip(change_GQW, self.ks, strict=True):
                # As in ``banded``: the pairs that a query sees begin one further in each row.
                own_QM = change_QW.as_strided((Q, M), (M + Q, 1), change_QW.storage_offset())
                own_QM.scatter_(1, place_QK[:, :k], kernel(squared_QK[:, :k]) * dot_QK[:, :k])
        return change_GQW[..., max(0, M - start) :].reshape(G * Q, -1)

    def _many_steps(self, store: Store, rows: Rows, h_QD: Tensor, y_Q: Tensor, start: int) -> Tensor:
        Q, M = len(y_Q), min(self.size, start + len(y_Q) - 1)
        nll_GLQ = h_QD.new_empty(len(self.ks), len(self.lrs), Q)
        none = h_QD.new_empty(Q, 0)
        place_QK, squared_QK, _ = nearest(h_QD, store.columns[0], start, M, max(self.ks)) if M else (none, none, none)
        for q in range(Q):
            for g, k in enumerate(self.ks):
                known = slice(0, min(k, self.size, start + q))
                position_K = place_QK[q, known].long() + (start + q - M)
                near = [column[position_K] for column in store.columns]
                w_K = kernel(squared_QK[q : q + 1, known])[0]
                for i, lr in enumerate(self.lrs):
                    nll_GLQ[g, i, q] = adapted_alone(rows, h_QD[q], int(y_Q[q]), near, w_K, lr, self.beta, self.steps)
        return nll_GLQ


class MbPA(MbPAGrid):
    r"""Memory-based parameter adaptation (Sprechmann et al. 2018) of the output rows, over the last n pairs, exact.

    For each prediction the rows take ``steps`` steps on the K nearest pairs, and are then as they were:

    .. math:: \theta' \leftarrow \theta' - \alpha \nabla_{\theta'} \sum_k w_k \mathrm{nll}(h_k, y_k; \theta')
              - \beta (\theta' - \theta), \qquad w_k \propto \frac{1}{\epsilon + |h_k - h_t|^2}

    with :math:`\epsilon = 10^{-3}` and :math:`p = \mathrm{softmax}(\theta' h_t + b)`: the bias is used and never
    adapted, and beta first acts at the second step. Source: paper, appendix A.2 for the numbers, whose choice the
    defaults are; its secondary sources for the form; epsilon, beta outside alpha, and the more recent of two pairs
    at equal distance are our decisions.

    One step is a few matrix products for a block of queries, about 2 (n + block) V operations a token where a call has
    a block of tokens at least: calls of single tokens share nothing. Memory: up to three times the pairs held, and a
    tile of the distributions. Two steps and more cost 4 K V D operations a step and more, for each token by itself:
    hundreds of times as much. Under autocast, or with the head's ``compute_dtype``, the large
    products of one step are made in that dtype.

    Args:
        size: n, how many pairs count, 1 or more.
        k: K, neighbours, 1 or more; where fewer pairs are held, all of them.
        lr: alpha, finite, 0 or more.
        beta: how far each step falls back to the rows as they were, finite, 0 or more.
        steps: 1 or more.
        block: queries at once; it changes speed and memory only. None: 1024.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above.
    """

    _single = True

    def __init__(
        self,
        size: int = 10_000,
        k: int = 1024,
        lr: float = 0.3,
        beta: float = 0.5,
        steps: int = 1,
        *,
        block: int | None = None,
    ) -> None:
        super().__init__(size, [k], [lr], beta, steps, block=block)


def _log2_sum(z: Tensor) -> Tensor:
    """log2 of the sum of 2^z over the last dimension."""
    top = z.amax(-1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)  # a tile may hold none but classes ruled out
    return top[..., 0] + z.sub_(top).exp2_().sum(-1).log2_()
