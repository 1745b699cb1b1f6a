"""The tiles behind ``functional.linear_cross_entropy``.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.

Two ways, both with bounded memory, chosen by measurement (benchmarks/linear_cross_entropy.py):

*One pass*, for a sum over tokens. The logits of R tokens are made, and both gradients are formed from them at once,
in the forward pass, divided by the softmax's denominator only afterwards. Three matrix products, as the plain path.

*Two passes*, for one value a token (whose weights in the gradient are known only in the backward pass), for no
gradient at all, and where V is so large that too few rows would fit. A running log-sum-exp first; the backward
pass makes each tile of logits again. Four matrix products.

A gradient that is to have a gradient itself is made anew, by plain operations on all logits: twice.py.

Between the products there are, in bfloat16, a copy to float32, the power, its sum, and a copy back; no maximum is taken
off where none is needed: powers.py. (torch.compile makes one kernel of the four that takes 1.4 times as long as they
do, after half a minute of compiling: LOG.md.)

Exponentials are taken to the base 2, of logits made from h * log2(e): ``exp2`` is three times as fast on a CPU as
``exp``, whose vendor implementation also slows down tenfold where results underflow, which written rows provoke.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstsight.functional.tiling.logits import Logits, extreme
from firstsight.functional.tiling.passes import Given, less_linear_, nll_of, running_sum, second_pass, zeros
from firstsight.functional.tiling.powers import Powers
from firstsight.functional.tiling.sizes import ONE_PASS_TILE, rows_at_once
from firstsight.functional.tiling.tiles import LN_2, LOG2_E, kind, slices
from firstsight.functional.tiling.twice import check_unchanged, differentiable_gradients, is_batched, versions


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

    h [N, D], w [V, D], b [V] or None, y [N] in [0, V); the weight of each token in the sum [N], None for 1; even [V]:
    the sum holds sum_v even_v (z_y - z_v) of each token's logits z too, None for nothing.
    """
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h_ND, w_VD, b_V))
    if wanted and (rows := rows_at_once(len(y_N), len(w_VD), compute_dtype, kind(h_ND))):
        given = h_ND, w_VD, b_V, y_N, compute_dtype, rows, token_weight_N, even_V
        return _apply(_OnePass, *given)
    loss_N, nll_N = nll_per_token(h_ND, w_VD, b_V, y_N, compute_dtype, token_weight_N, even_V)
    return loss_N.sum(), nll_N


def nll_per_token(
    h_ND: Tensor,
    w_VD: Tensor,
    b_V: Tensor | None,
    y_N: Tensor,
    compute_dtype: torch.dtype,
    token_weight_N: Tensor | None = None,
    even_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The terms [N] of ``nll_sum``, and the NLL [N]; arguments as there."""
    given = h_ND, w_VD, b_V, y_N, compute_dtype, token_weight_N, even_V
    return _apply(_TwoPasses, *given)


def _apply(function: type[torch.autograd.Function], *given: Any) -> tuple[Tensor, Tensor]:
    """Not compiled: the backward pass would be traced for gradients without a graph, and then be used for all."""
    apply: Callable[..., Any] = function.apply
    if torch.compiler.is_compiling():
        apply = torch.compiler.disable(apply)  # type: ignore[no-untyped-call]
    loss, nll_N = apply(*given)
    return loss, nll_N


@torch.no_grad()
def log_sum_exp(h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, compute_dtype: torch.dtype) -> Tensor:
    """log sum_v exp(logit), [N] in nats, without a graph; arguments as ``nll_sum``."""
    logits = Logits(h_ND, w_VD, b_V, compute_dtype)
    max_N1, sum_N1 = running_sum(logits)
    return (max_N1 + sum_N1.log2())[:, 0] * LN_2 + logits.shift


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
        given = h_ND, w_VD, b_V
        logits = Logits(*given, compute_dtype)
        powers = Powers(logits, rows, ONE_PASS_TILE[kind(h_ND)][1])
        grads = gh_ND, gw_VD, gb_V = zeros(given, logits.sum_dtype)
        z_N1 = logits.of(y_N, h_ND, b_V)
        nll_N, missing_N = gh_ND.new_empty(2, len(y_N))
        share_N = torch.ones_like(nll_N) if token_weight_N is None else token_weight_N.to(nll_N.dtype)
        for n in slices(len(y_N), rows):
            max_R1, others_R1, own_R1 = powers.make(n, gh_ND[n], y_N[n], z_N1[n] * LOG2_E)
            nll_N[n], missing_N[n] = nll_of(max_R1, others_R1, own_R1, z_N1[n])
            share_R1 = share_N[n, None] / (others_R1 + own_R1)
            gh_ND[n] *= share_R1
            powers.add_to(gw_VD, gb_V, h_ND[n].to(logits.sum_dtype), share_R1)
        row_D = _even_row(w_VD, even_V)
        loss_N = _weighted(nll_N, given, y_N, token_weight_N, even_V, row_D)
        less_linear_(grads, given, y_N, torch.ones_like(nll_N), share_N * missing_N, even_V, row_D)
        kept = (None if t is None or g is None else g.to(_kept(t.dtype)) for g, t in zip(grads, given, strict=True))
        # The weight may change before the backward pass, as long as that is an ordinary one: so it is not saved.
        ctx.save_for_backward(h_ND, y_N, token_weight_N, even_V, *kept)
        ctx.given, ctx.versions, ctx.sum_dtype = (w_VD, b_V), versions([w_VD, b_V]), logits.sum_dtype
        ctx.mark_non_differentiable(nll_N)
        return loss_N.sum(), nll_N

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, y_N, token_weight_N, even_V, *kept = ctx.saved_tensors
        w_VD, b_V = ctx.given
        if torch.is_grad_enabled():
            check_unchanged(ctx.given, ctx.versions)
            how = y_N, ctx.sum_dtype, token_weight_N, even_V
            found = differentiable_gradients(g.expand(len(y_N)), h_ND, w_VD, b_V, *how)
            return *found, None, None, None, None, None
        last = _is_last(g)
        scaled = (None if k is None else k.mul_(g) if last else k * g for k in kept)
        grads = (None if k is None else k.to(t.dtype) for k, t in zip(scaled, (h_ND, w_VD, b_V), strict=True))
        return *grads, None, None, None, None, None


class _TwoPasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        w_VD: Tensor,
        b_V: Tensor | None,
        y_N: Tensor,
        compute_dtype: torch.dtype,
        token_weight_N: Tensor | None,
        even_V: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        given = h_ND, w_VD, b_V
        logits = Logits(*given, compute_dtype)
        z_N1 = logits.of(y_N, h_ND, b_V)
        (others_max_N1, others_N1), own_z_N1 = running_sum(logits, y_N), z_N1 * LOG2_E
        max_N1 = torch.maximum(others_max_N1, own_z_N1)
        others_N1, own_N1 = others_N1 * (others_max_N1 - max_N1).exp2_(), (own_z_N1 - max_N1).exp2_()
        nll_N, missing_N = nll_of(max_N1, others_N1, own_N1, z_N1)
        row_D = _even_row(w_VD, even_V)
        ctx.save_for_backward(*given, y_N, token_weight_N, even_V, row_D, missing_N, max_N1, others_N1 + own_N1)
        ctx.compute_dtype = compute_dtype
        ctx.mark_non_differentiable(nll_N)
        return _weighted(nll_N, given, y_N, token_weight_N, even_V, row_D), nll_N

    @staticmethod
    def backward(ctx: Any, g_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *given, y_N, token_weight_N, even_V, row_D, missing_N, max_N1, sum_N1 = ctx.saved_tensors
        h_ND, w_VD, b_V = given
        logits = Logits(h_ND, w_VD, b_V, ctx.compute_dtype)
        if torch.is_grad_enabled():
            how = y_N, logits.sum_dtype, token_weight_N, even_V
            return *differentiable_gradients(g_N, h_ND, w_VD, b_V, *how), None, None, None, None
        target_N = g_N if token_weight_N is None else g_N * token_weight_N.to(g_N.dtype)
        sums = max_N1, sum_N1, target_N * missing_N
        return *second_pass(logits, given, y_N, g_N, target_N, sums, even_V, row_D), None, None, None, None


def _even_row(w_VD: Tensor, even_V: Tensor | None) -> Tensor | None:
    """sum_v even_v w_v, [D]."""
    return None if even_V is None else even_V @ w_VD.to(even_V.dtype)


def _weighted(
    nll_N: Tensor,
    given: Given,
    y_N: Tensor,
    token_weight_N: Tensor | None,
    even_V: Tensor | None,
    row_D: Tensor | None,
) -> Tensor:
    """The loss [N]: the weighted NLL and sum_v even_v (z_y - z_v), which needs no logit z but that of the target."""
    loss_N = nll_N.clone() if token_weight_N is None else nll_N * token_weight_N.to(nll_N.dtype)
    if even_V is None or row_D is None:
        return loss_N
    h_ND, w_VD, b_V = given
    h_ND, target_ND = h_ND.to(even_V.dtype), w_VD[y_N].to(even_V.dtype)
    term_N = (h_ND * (even_V.sum() * target_ND - row_D)).sum(1)
    if b_V is not None:
        b_V = b_V.to(even_V.dtype)
        b_V = b_V - extreme(b_V, b_V.dtype)
        term_N = term_N + (even_V.sum() * b_V[y_N] - even_V @ b_V)
    return loss_N + term_N.nan_to_num_(torch.inf, torch.inf, -torch.inf)  # of a target ruled out: inf - inf


def _kept(dtype: torch.dtype) -> torch.dtype:
    """What gradients are kept in. float16 has no room for those that the scale of a loss is yet to lift into it."""
    return torch.float32 if dtype == torch.float16 else dtype


def _is_last(g: Tensor) -> bool:
    """Whether this backward pass, which brings g, is the last one through its graph, so that what was kept is free."""
    if is_batched(g) or torch.compiler.is_compiling():
        return False
    return not torch._C._autograd._get_current_graph_task_keep_graph()
