"""The loss of classes that lie on several processes, and its gradients.

Shapes: N tokens of this rank that count, M of all ranks, R ranks, V_r classes of this rank, V of all, D features.

What travels, and none of it grows with V: the activations and labels of all tokens once, [M, D] and [M]; twice two or
three numbers a token, of which the log-sum-exp over all classes is made; in the backward pass each token's gradient
[M], and [M, D] that is summed up where its token is. So a rank holds M tokens, and M x V_r logits in tiles.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiling.passes import nll_of
from firstsight.functional.tiling.shards import part_gradients, part_of
from firstsight.functional.tiling.tiles import LOG2_E
from firstsight.heads.shards.ranks import Ranks
from firstsight.heads.steps.peers import BACKWARD


class Shown(NamedTuple):
    """The tokens of all ranks that count."""

    h_MD: Tensor
    """activations, without a graph"""
    y_M: Tensor
    """labels in [0, V)"""
    place_M: Tensor
    """the place of the label's class among those of this rank, -1 where it is another's"""
    sizes: Sequence[int]
    """how many of each rank"""
    keep_N: Tensor
    """which of this rank's tokens count, of all that it was given"""

    def owned(self) -> tuple[Tensor, Tensor]:
        """Activations [U, D] of the classes of this rank, and their places [U]."""
        own_M = self.place_M >= 0
        return self.h_MD[own_M], self.place_M[own_M]


class Weighting(NamedTuple):
    """What class weights and smoothing make of the loss, as in ``functional.linear_cross_entropy``."""

    share_M: Tensor | None
    """of each token's NLL; None for 1"""
    even_V: Tensor | None
    """of each logit of the classes here in the linear term; None for nothing"""
    total: float
    """the sum of those of all classes"""
    own_N: Tensor | None
    """the weight of the target of each of this rank's tokens, that a mean divides by; None for 1"""

    @classmethod
    def of(cls, shown: Shown, own: slice, weight_V: Tensor | None, epsilon: float, classes: Tensor, V: int) -> Any:
        """From the weights [V] of all classes, or None, and the share that is smoothed."""
        device, dtype = shown.h_MD.device, torch.promote_types(shown.h_MD.dtype, torch.float32)
        if weight_V is None:
            even_V = torch.full((len(classes),), epsilon / V, dtype=dtype, device=device) if epsilon else None
            return cls(None, even_V, epsilon, None)
        weight_V = weight_V.detach().to(device, dtype)
        of_M, sum_ = weight_V[shown.y_M], float(weight_V.sum())
        share_M = (1 - epsilon) * of_M + epsilon * sum_ / V
        even_V = weight_V[classes] * (epsilon / V) if epsilon else None
        return cls(share_M, even_V, epsilon * sum_ / V, of_M[own])


class _SharedNLL(torch.autograd.Function):
    """The loss of each token of this rank [N], and its NLL [N] outside the graph. A collective, and so is backward.

    The gradient of h is that of this rank's loss; of rows and biases, the mean over ranks of those of their losses: as
    ``DistributedDataParallel`` makes them of a layer that is whole on each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        w_VD: Tensor,
        b_V: Tensor | None,
        shown: Shown,
        ranks: Ranks,
        compute_dtype: torch.dtype,
        weighting: Weighting,
    ) -> tuple[Tensor, Tensor]:
        max_M, others_M, z_M = part_of(shown.h_MD, w_VD, b_V, shown.place_M, compute_dtype)
        even = [] if weighting.even_V is None else [_linear(shown.h_MD, w_VD, b_V, weighting.even_V.to(max_M.dtype))]
        nll_M, z_M, max_M, sum_M, missing_M, *linear = over_all(ranks, max_M, others_M, z_M, even)
        loss_M = nll_M if weighting.share_M is None else nll_M * weighting.share_M.to(nll_M.dtype)
        for linear_M in linear:
            loss_M = loss_M + (weighting.total * z_M - linear_M)
        ctx.save_for_backward(shown.h_MD, w_VD, b_V, shown.place_M, max_M, sum_M, missing_M)
        ctx.shown, ctx.ranks, ctx.compute_dtype, ctx.weighting = shown.sizes, ranks, compute_dtype, weighting
        own = own_slice(shown.sizes, ranks.rank)
        nll_N = nll_M[own].clone()
        ctx.mark_non_differentiable(nll_N)
        return loss_M[own].clone(), nll_N

    @staticmethod
    def backward(ctx: Any, g_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        h_MD, w_VD, b_V, place_M, max_M, sum_M, missing_M = ctx.saved_tensors
        ranks, weighting, sizes = ctx.ranks, ctx.weighting, ctx.shown
        g_M = begin_backward(ranks, g_N, sizes)
        target_M = g_M if weighting.share_M is None else g_M * weighting.share_M.to(g_M.dtype)
        even_V = None if weighting.even_V is None else weighting.even_V.to(g_M.dtype)
        off_M = target_M * missing_M if even_V is None else target_M * missing_M - g_M * weighting.total
        given, sums = (h_MD, w_VD, b_V), (max_M, sum_M, off_M)
        gh_MD, *grads = part_gradients(given, place_M, ctx.compute_dtype, g_M, target_M, sums, even_V)
        gh_ND = ranks.sum_of_own(gh_MD, sizes)
        return gh_ND, *(None if g is None else g.div_(ranks.size) for g in grads), None, None, None, None


def shared_nll(
    h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, shown: Shown, ranks: Ranks, how: tuple[torch.dtype, Weighting]
) -> tuple[Tensor, Tensor]:
    """The loss of each token of this rank [N], and its NLL [N] outside the graph.

    h [N, D] the tokens themselves, for their gradient; w [V_r, D] and b [V_r] of the classes here; ``how``: the dtype
    of products, and the weights.
    """
    loss_N, nll_N = _SharedNLL.apply(h_ND, w_VD, b_V, shown, ranks, *how)  # type: ignore[no-untyped-call]
    return loss_N, nll_N


def begin_backward(ranks: Ranks, g_N: Tensor, sizes: Sequence[int]) -> Tensor:
    """The gradients of all tokens' losses [M], of those of this rank's; a rank that is elsewhere is told, not mixed up.

    Raises:
        InputError: it is to have a gradient itself; or see ``Ranks.begin``.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "a gradient of a gradient (create_graph=True) was asked of a head whose classes lie on several "
            "processes, which has none. Use firstsight.Softmax for it."
        )
    step = torch.zeros((), dtype=torch.int64, device=g_N.device)
    ranks.begin(len(g_N), 0, {}, step, BACKWARD)
    return ranks.gather(g_N.contiguous(), sizes)


def over_all(ranks: Ranks, max_M: Tensor, others_M: Tensor, z_M: Tensor, more: Sequence[Tensor] = ()) -> list[Tensor]:
    """Of ``part_of`` each rank's classes: the NLL [M], the target's logit, and for gradients the largest logit to base
    2, the sum of all powers less it, and the share of all but the target; then the sums of what is given beside.
    """
    own_max_M = max_M
    max_M, z_M = ranks.max_(torch.stack([max_M, z_M]))
    max_M = torch.maximum(max_M, z_M * LOG2_E)
    others_M, *sums = ranks.sum_(torch.stack([others_M * (own_max_M - max_M).exp2(), *more]))
    own_M = (z_M * LOG2_E - max_M).exp2()
    nll_M, missing_M = nll_of(*(x[:, None] for x in (max_M, others_M, own_M, z_M)))
    return [nll_M, z_M, max_M, others_M + own_M, missing_M, *sums]


def own_slice(sizes: Sequence[int], rank: int) -> slice:
    """Where the tokens of a rank are among those of all."""
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])


def _linear(h_MD: Tensor, w_VD: Tensor, b_V: Tensor | None, even_V: Tensor) -> Tensor:
    """sum_v even_v z_v of the logits here, [M]."""
    of_M = h_MD.to(even_V.dtype) @ (even_V @ w_VD.to(even_V.dtype))
    return of_M if b_V is None else of_M + even_V @ b_V.to(even_V.dtype)
