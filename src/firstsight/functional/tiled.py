"""The tiles behind ``functional.linear_cross_entropy``.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.

Two ways, both with bounded memory, chosen by measurement (benchmarks/linear_cross_entropy.py):

*One pass*, for a sum over tokens. The logits of R tokens are made, and both gradients are formed from them at once,
in the forward pass, divided by the softmax's denominator only afterwards. Three matrix products, as the plain path.

*Two passes*, for one value a token (whose weights in the gradient are known only in the backward pass), for no
gradient at all, and where V is so large that too few rows would fit. A running log-sum-exp first; the backward
pass makes each tile of logits again. Four matrix products.

Exponentials are taken to the base 2, of logits made from h * log2(e): ``exp2`` is three times as fast on a CPU as
``exp``, whose vendor implementation also slows down tenfold where results underflow, which written rows provoke.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from firstsight.functional.tiles import LN_2, LOG2_E, kind, slices

# Rows and columns of a tile, and how many logits one pass may hold. On a CPU a tile of two passes has to stay in the
# cache, and the held logits near it; the GPU's numbers are a first guess, for benchmarks/gpu.py to settle.
_TILE = {"cpu": (1120, 512), "cuda": (8192, 8192)}
_ONE_PASS_TILE = {"cpu": (280, 4096), "cuda": (2048, 65536)}
_HELD = {"cpu": 2**23 + 2**21, "cuda": 2**29}
_FEWEST_ROWS = 128


def nll_sum(
    h_ND: Tensor,
    w_VD: Tensor,
    b_V: Tensor | None,
    y_N: Tensor,
    compute_dtype: torch.dtype,
    token_weight_N: Tensor | None = None,
    even_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed NLL, a scalar in nats, and the NLL [N] it is of, outside the graph.

    h [N, D], w [V, D], b [V] or None, y [N] in [0, V); the weight of each token in the sum [N], None for 1; what
    ``even_terms`` are made with, which the sum holds too, [V], None for nothing.
    """
    device = kind(h_ND)
    rows = min(_ONE_PASS_TILE[device][0], _HELD[device] // len(w_VD))
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h_ND, w_VD, b_V))
    if wanted and rows >= _FEWEST_ROWS:
        given = h_ND, w_VD, b_V, y_N, compute_dtype, rows, token_weight_N, even_V
        total, nll_N = _OnePass.apply(*given)  # type: ignore[no-untyped-call]
        return total, nll_N
    nll_N = nll_per_token(h_ND, w_VD, b_V, y_N, compute_dtype)
    total = (nll_N if token_weight_N is None else nll_N * token_weight_N).sum()
    if even_V is not None:
        total = total + even_terms(h_ND, w_VD, b_V, y_N, even_V, even_row(w_VD, even_V)).sum()
    return total, nll_N.detach()


def nll_per_token(h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """NLL [N] in nats; arguments as ``nll_sum``."""
    result: Tensor = _TwoPasses.apply(h_ND, w_VD, b_V, y_N, compute_dtype)  # type: ignore[no-untyped-call]
    return result


def even_row(w_VD: Tensor, even_V: Tensor) -> Tensor:
    """sum_v even_v w_v, [D]."""
    return even_V @ w_VD.to(even_V.dtype)


def even_terms(h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, even_V: Tensor, row_D: Tensor) -> Tensor:
    """What label smoothing adds to each NLL [N]: sum_v even_v (z_y - z_v), without the logits z; row_D: even_row."""
    h_ND, target_ND = h_ND.to(even_V.dtype), w_VD[y_N].to(even_V.dtype)
    term_N = (h_ND * (even_V.sum() * target_ND - row_D)).sum(1)
    if b_V is None:
        return term_N
    b_V = b_V.to(even_V.dtype)
    return term_N + (even_V.sum() * b_V[y_N] - even_V @ b_V)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        w_VD: Tensor,
        b_V: Tensor | None,
        y_N: Tensor,
        compute_dtype: torch.dtype,
        rows: int,
        token_weight_N: Tensor | None,
        even_V: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        logits = _Logits(h_ND, w_VD, b_V, compute_dtype)
        columns = _ONE_PASS_TILE[kind(h_ND)][1]
        held = h_ND.new_empty(min(rows, len(y_N)) * len(w_VD), dtype=compute_dtype)
        gh_ND, gw_VD = (torch.zeros_like(t, dtype=logits.sum_dtype) for t in (h_ND, w_VD))
        gb_V = None if b_V is None else torch.zeros_like(b_V, dtype=logits.sum_dtype)
        nll_N = gh_ND.new_empty(len(y_N))
        share_N = torch.ones_like(nll_N) if token_weight_N is None else token_weight_N.to(nll_N.dtype)
        share_N1 = share_N[:, None]
        for n in slices(len(y_N), rows):
            h_RD, gh_RD = h_ND[n].to(logits.sum_dtype), gh_ND[n]
            tiles = [(v, logits.make(n, v, held[v.start * len(h_RD) :])) for v in slices(len(w_VD), columns)]
            max_R1 = torch.cat([z_RC.amax(1, keepdim=True) for _, z_RC in tiles], 1).amax(1, keepdim=True)
            max_R1 = max_R1.to(logits.sum_dtype)
            sum_R1 = torch.zeros_like(max_R1)
            for v, z_RC in tiles:
                p_RC = z_RC.to(logits.sum_dtype).sub_(max_R1).exp2_()
                sum_R1 += p_RC.sum(1, keepdim=True)
                _add_product_(gh_RD, z_RC.copy_(p_RC), logits.weight(v))
            nll_N[n] = (max_R1 + sum_R1.log2())[:, 0] * LN_2
            divisor_R1 = sum_R1 / share_N1[n]
            gh_RD /= divisor_R1
            scaled_RD = (h_RD / divisor_R1).to(compute_dtype)
            for v, p_RC in tiles:
                _add_product_(gw_VD[v], p_RC.t(), scaled_RD)
                if gb_V is not None:
                    gb_V[v] += (p_RC / divisor_R1).sum(0)
        target_N, target_N1 = share_N, share_N1  # of the target's logit in the gradient
        if even_V is not None:
            target_N = share_N - even_V.sum()
            target_N1 = target_N[:, None]
            row_D = even_row(w_VD, even_V)
            gh_ND -= row_D
            gw_VD.addr_(even_V, h_ND.to(gw_VD.dtype).sum(0), alpha=-1)
            if gb_V is not None:
                gb_V.sub_(even_V, alpha=len(y_N))
        gh_ND -= w_VD[y_N] * target_N1
        gw_VD.index_add_(0, y_N, h_ND.to(gw_VD.dtype) * target_N1, alpha=-1)
        if b_V is not None and gb_V is not None:
            gb_V = gb_V.index_add_(0, y_N, target_N, alpha=-1).to(b_V.dtype)
        ctx.save_for_backward(gh_ND.to(h_ND.dtype), gw_VD.to(w_VD.dtype), gb_V)
        nll_N -= _target_logit(h_ND, w_VD, b_V, y_N, logits.sum_dtype)
        ctx.mark_non_differentiable(nll_N)
        total = (nll_N * share_N).sum()
        if even_V is not None:
            total = total + even_terms(h_ND, w_VD, b_V, y_N, even_V, row_D).sum()
        return total, nll_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if grad is None else grad * g for grad in ctx.saved_tensors), None, None, None, None, None


class _TwoPasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, compute_dtype: torch.dtype
    ) -> Tensor:
        logits = _Logits(h_ND, w_VD, b_V, compute_dtype)
        max_N1 = h_ND.new_full((len(y_N), 1), -torch.inf, dtype=logits.sum_dtype)
        sum_N1 = torch.zeros_like(max_N1)
        for n, _, z_RC in _tiles(logits):
            old_R1 = max_N1[n]
            new_R1 = torch.maximum(old_R1, z_RC.amax(1, keepdim=True))
            sum_N1[n] = sum_N1[n] * (old_R1 - new_R1).exp2_() + z_RC.sub_(new_R1).exp2_().sum(1, keepdim=True)
            max_N1[n] = new_R1
        lse_N = (max_N1 + sum_N1.log2_())[:, 0]
        ctx.save_for_backward(h_ND, w_VD, b_V, y_N, lse_N)
        ctx.compute_dtype = compute_dtype
        return lse_N * LN_2 - _target_logit(h_ND, w_VD, b_V, y_N, logits.sum_dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_N: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, w_VD, b_V, y_N, lse_N = ctx.saved_tensors
        logits = _Logits(h_ND, w_VD, b_V, ctx.compute_dtype)
        g_N1, lse_N1 = g_N.to(logits.sum_dtype)[:, None], lse_N[:, None]
        gh_ND, gw_VD = (torch.zeros_like(t, dtype=logits.sum_dtype) for t in (h_ND, w_VD))
        gb_V = None if b_V is None else torch.zeros_like(b_V, dtype=logits.sum_dtype)
        weighted_ND = h_ND.to(logits.sum_dtype) * g_N1
        scaled_ND = weighted_ND.to(ctx.compute_dtype)
        for n, v, z_RC in _tiles(logits):
            p_RC = z_RC.sub_(lse_N1[n]).exp2_()
            if gb_V is not None:
                gb_V[v] += g_N1[n, 0] @ p_RC
            p_RC = p_RC.to(ctx.compute_dtype)
            _add_product_(gh_ND[n], p_RC, logits.weight(v))
            _add_product_(gw_VD[v], p_RC.t(), scaled_ND[n])
        gh_ND.sub_(w_VD[y_N]).mul_(g_N1)
        gw_VD.index_add_(0, y_N, weighted_ND, alpha=-1)
        if gb_V is not None:
            gb_V = gb_V.index_add_(0, y_N, g_N1[:, 0], alpha=-1).to(b_V.dtype)
        return gh_ND.to(h_ND.dtype), gw_VD.to(w_VD.dtype), gb_V, None, None


class _Logits:
    """Makes tiles of logits, in units of log 2."""

    def __init__(self, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, compute_dtype: torch.dtype) -> None:
        self.w_VD, self.compute_dtype = w_VD, compute_dtype
        self.sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        self.h_ND = (h_ND.to(self.sum_dtype) * LOG2_E).to(compute_dtype)
        self.b_V = None if b_V is None else b_V.to(self.sum_dtype) * LOG2_E

    def weight(self, v: slice) -> Tensor:
        """[C, D] in the compute dtype."""
        return self.w_VD[v].to(self.compute_dtype)

    def make(self, n: slice, v: slice, buffer: Tensor) -> Tensor:
        """The tile [R, C] in the compute dtype, at the start of ``buffer``."""
        h_RD, w_CD = self.h_ND[n], self.weight(v)
        z_RC = buffer[: len(h_RD) * len(w_CD)].view(len(h_RD), len(w_CD))
        torch.mm(h_RD, w_CD.t(), out=z_RC)
        return z_RC if self.b_V is None else z_RC.add_(self.b_V[v])


def _tiles(logits: _Logits) -> Iterator[tuple[slice, slice, Tensor]]:
    """All tiles in ``sum_dtype``, each good until the next: few rows get wide tiles, so that each fills the cache."""
    h_ND, w_VD = logits.h_ND, logits.w_VD
    rows, columns = _TILE[kind(h_ND)]
    rows, size = max(1, min(rows, len(h_ND))), rows * columns
    columns = min(size // rows, len(w_VD))
    buffer = h_ND.new_empty(rows * columns)
    for n in slices(len(h_ND), rows):
        for v in slices(len(w_VD), columns):
            yield n, v, logits.make(n, v, buffer).to(logits.sum_dtype)


def _target_logit(h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, dtype: torch.dtype) -> Tensor:
    z_N = (h_ND.to(dtype) * w_VD[y_N]).sum(1)
    return z_N if b_V is None else z_N + b_V[y_N]


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, the product in the operands' dtype, the sum in that of ``total``."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
