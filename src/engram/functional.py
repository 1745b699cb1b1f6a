"""The arithmetic of the output layer as pure tensor functions: the write and the loss.

Shapes, as suffixes of tensor names: N tokens, V classes, D features, U distinct classes of a batch,
R rows (tokens) and C columns (classes) of one tile.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from engram.errors import InputError

IGNORE_INDEX = -100
# One tile of logits. On a CPU it has to stay in the cache (R x C x 4 bytes = 2 MB); on a GPU it has to fill the
# chip. Both measured or to be measured by benchmarks/linear_cross_entropy.py.
_CPU_TILE = (1120, 512)
_GPU_TILE = (8192, 8192)


def hebbian_rate(counts: Tensor, *, T: float, gamma: float, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""The rate of the write, by how often a class has been seen.

    .. math:: \lambda_i = \max(1 / c_i, \gamma) \text{ while } c_i < T, \quad 0 \text{ from then on}

    Source: paper, main text (secondary sources). A class never seen has c = 1, so its first sight is
    written outright (our decision where the paper is silent; both public codes do the same).

    Args:
        counts: [...] int64, c_i before the batch is counted, each at least 1.
        T: number of sights after which a row is an ordinary parameter.
        gamma: smallest rate.
        dtype: floating dtype of the result.

    Returns:
        [...], in [0, 1].
    """
    rate = counts.to(dtype).reciprocal().clamp(min=gamma)
    return rate.masked_fill(counts >= T, 0.0)


def class_means(hidden: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor, Tensor]:
    """The mean activation of each class that occurs in a batch.

    Args:
        hidden: [..., D] float.
        target: [...] int64; entries equal to ``ignore_index`` do not count.

    Returns:
        classes [U] int64 in rising order, means [U, D] in the dtype of ``hidden``, occurrences [U] int64.
    """
    h_ND, y_N = _flatten(hidden, target)
    keep_N = y_N != ignore_index
    classes_U, inverse_N, occurrences_U = torch.unique(y_N[keep_N], return_inverse=True, return_counts=True)
    sums_UD = h_ND.new_zeros(len(classes_U), h_ND.shape[1]).index_add_(0, inverse_N, h_ND[keep_N])
    return classes_U, sums_UD / occurrences_U[:, None], occurrences_U


@torch.no_grad()
def hebbian_update_(
    weight: Tensor,
    counts: Tensor,
    hidden: Tensor,
    target: Tensor,
    *,
    T: float,
    gamma: float,
    ignore_index: int = IGNORE_INDEX,
) -> None:
    r"""Write the activations of a batch into the rows of their classes, in place.

    .. math:: \theta_i \leftarrow \lambda_i \, \overline{h}_i + (1 - \lambda_i)\, \theta_i,
              \qquad c_i \leftarrow c_i + n_i

    for every class i that occurs: :math:`\overline{h}_i` is the mean of its :math:`n_i` activations and
    :math:`\lambda_i` is :func:`hebbian_rate` of the count *before* the batch. Rows of absent classes, and
    of classes seen T times, stay as they are bit for bit. Cost: O(N D), whatever V is.

    Source: paper, main text (secondary sources). Computed in the rows' own dtype, in float32 at least.

    Args:
        weight: [V, D] float, written in place.
        counts: [V] int64, c_i, counted up in place.
        hidden: [..., D] float, the input of the softmax. Any floating dtype.
        target: [...] int64, the classes; ``ignore_index`` entries do not count.
        T: number of sights after which a row is no longer written, above 0.
        gamma: smallest rate, in [0, 1].

    Raises:
        InputError: (a ``ValueError``) a shape, dtype, label, T or gamma is not as above.
    """
    check_rule(T, gamma)
    _check_shapes(hidden, weight, target)
    if counts.shape != weight.shape[:1] or counts.dtype != torch.int64:
        raise InputError(
            f"counts is {list(counts.shape)} of {counts.dtype}; expected [{weight.shape[0]}] of torch.int64, "
            f"one count for each row of weight."
        )
    dtype = torch.promote_types(weight.dtype, torch.float32)
    classes_U, means_UD, occurrences_U = class_means(hidden.to(dtype), target, ignore_index=ignore_index)
    if not len(classes_U):
        return
    _check_range(int(classes_U[0]), int(classes_U[-1]), weight.shape[0], ignore_index)
    before_U = counts[classes_U]
    counts[classes_U] = before_U + occurrences_U
    written_U = before_U < T
    classes_U, means_UD = classes_U[written_U], means_UD[written_U]
    rate_U = hebbian_rate(before_U[written_U], T=T, gamma=gamma, dtype=dtype)
    rows_UD = torch.lerp(weight[classes_U].to(dtype), means_UD, rate_U[:, None])
    weight[classes_U] = rows_UD.to(weight.dtype)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
    reduction: Literal["mean", "sum", "none"] = "mean",
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Cross entropy of a linear layer without ever holding the [N, V] logits.

    .. math:: \mathrm{nll}_n = \log \sum_v \exp(\theta_v \cdot h_n + b_v) - (\theta_{y_n} \cdot h_n + b_{y_n})

    Works tile by tile: the first pass keeps a running log-sum-exp, the backward pass makes each tile of
    logits again and forms both gradients from it. On a CPU that beats the plain path even though it
    multiplies four times where the plain one does three, because a tile stays in the cache
    (benchmarks/linear_cross_entropy.py). Gradients of gradients are not available.

    Args:
        hidden: [..., D] float.
        weight: [V, D] float.
        target: [...] int64; ``ignore_index`` entries give 0 and no gradient.
        bias: [V] or None.
        reduction: "mean" over the tokens that count (0 when there are none: our decision, so that an empty
            batch is no NaN), "sum", or "none" for one value a token.
        compute_dtype: dtype of the matrix products, for example ``torch.bfloat16``; sums and exponentials stay
            in float32 at least. None: the autocast dtype under autocast, else the inputs' own.

    Returns:
        A scalar, or [...] for "none"; nats. float32 at least.

    Raises:
        InputError: (a ``ValueError``) a shape, dtype or label is not as above.
    """
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'.")
    _check_shapes(hidden, weight, target)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"bias is {list(bias.shape)}; expected [{weight.shape[0]}], one value for each row of weight.")
    device = hidden.device.type
    if compute_dtype is None:
        own = torch.promote_types(hidden.dtype, weight.dtype)
        compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    h_ND, y_N = _flatten(hidden, target)
    keep_N = y_N != ignore_index
    h_ND, kept_N = h_ND[keep_N], y_N[keep_N]
    if len(kept_N):
        _check_range(int(kept_N.min()), int(kept_N.max()), weight.shape[0], ignore_index)
    with torch.autocast(device, enabled=False):
        nll_N: Tensor = _TiledCrossEntropy.apply(h_ND, weight, bias, kept_N, compute_dtype)  # type: ignore[no-untyped-call]
    if reduction == "none":
        return nll_N.new_zeros(y_N.shape).masked_scatter(keep_N, nll_N).view(target.shape)
    return nll_N.sum() if reduction == "sum" else nll_N.sum() / max(len(kept_N), 1)


class _TiledCrossEntropy(torch.autograd.Function):
    """nll [N] of h [N, D], weight [V, D], bias [V] or None, y [N]; see ``linear_cross_entropy``."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, compute_dtype: torch.dtype
    ) -> Tensor:
        tiles = _Tiles(h_ND, w_VD, b_V, compute_dtype)
        max_N = h_ND.new_full((len(y_N), 1), -torch.inf, dtype=tiles.sum_dtype)
        sum_N = torch.zeros_like(max_N)
        for rows, columns in tiles:
            z_RC = tiles.logits(rows, columns)
            old_R = max_N[rows]
            new_R = torch.maximum(old_R, z_RC.amax(1, keepdim=True))
            sum_N[rows] = sum_N[rows] * (old_R - new_R).exp_() + z_RC.sub_(new_R).exp_().sum(1, keepdim=True)
            max_N[rows] = new_R
        lse_N = (max_N + sum_N.log_())[:, 0]
        ctx.save_for_backward(h_ND, w_VD, b_V, y_N, lse_N)
        ctx.compute_dtype = compute_dtype
        target_N = (h_ND.to(tiles.sum_dtype) * w_VD[y_N]).sum(1)
        return lse_N - (target_N if b_V is None else target_N + b_V[y_N])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_N: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        h_ND, w_VD, b_V, y_N, lse_N = ctx.saved_tensors
        tiles = _Tiles(h_ND, w_VD, b_V, ctx.compute_dtype)
        g_N1 = g_N.to(tiles.sum_dtype)[:, None]
        gh_ND = torch.zeros_like(h_ND, dtype=tiles.sum_dtype)
        gw_VD = torch.zeros_like(w_VD, dtype=tiles.sum_dtype)
        gb_V = None if b_V is None else torch.zeros_like(b_V, dtype=tiles.sum_dtype)
        weighted_ND = h_ND.to(tiles.sum_dtype) * g_N1
        scaled_ND = weighted_ND.to(tiles.compute_dtype)
        for rows, columns in tiles:
            p_RC = tiles.logits(rows, columns).sub_(lse_N[rows, None]).exp_()
            if gb_V is not None:
                gb_V[columns] += g_N1[rows, 0] @ p_RC
            p_RC = p_RC.to(tiles.compute_dtype)
            _add_product_(gh_ND[rows], p_RC, w_VD[columns].to(tiles.compute_dtype))
            _add_product_(gw_VD[columns], p_RC.t(), scaled_ND[rows])
        gh_ND.sub_(w_VD[y_N]).mul_(g_N1)
        gw_VD.index_add_(0, y_N, weighted_ND, alpha=-1)
        if b_V is not None and gb_V is not None:
            gb_V = gb_V.index_add_(0, y_N, g_N1[:, 0], alpha=-1).to(b_V.dtype)
        return gh_ND.to(h_ND.dtype), gw_VD.to(w_VD.dtype), gb_V, None, None


class _Tiles:
    """Cuts the N x V logits into tiles and makes one at a time, in a buffer that is used again."""

    def __init__(self, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, compute_dtype: torch.dtype) -> None:
        self.w_VD, self.b_V, self.compute_dtype = w_VD, b_V, compute_dtype
        self.h_ND = h_ND.to(compute_dtype)
        self.sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        rows, columns = _CPU_TILE if h_ND.device.type == "cpu" else _GPU_TILE
        self.rows = max(1, min(rows, len(h_ND)))
        self.columns = min(rows * columns // self.rows, len(w_VD))
        self.buffer = h_ND.new_empty(self.rows * self.columns, dtype=compute_dtype)

    def __iter__(self) -> Any:
        for start in range(0, len(self.h_ND), self.rows):
            for first in range(0, len(self.w_VD), self.columns):
                yield slice(start, start + self.rows), slice(first, first + self.columns)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """[R, C] in ``sum_dtype``, good until the next call."""
        h_RD, w_CD = self.h_ND[rows], self.w_VD[columns].to(self.compute_dtype)
        z_RC = self.buffer[: len(h_RD) * len(w_CD)].view(len(h_RD), len(w_CD))
        z_RC = torch.mm(h_RD, w_CD.t(), out=z_RC).to(self.sum_dtype)
        return z_RC if self.b_V is None else z_RC.add_(self.b_V[columns])


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, the product in the operands' dtype, the sum in that of ``total``."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def check_rule(T: float, gamma: float) -> None:
    """Raise InputError unless T is above 0 and gamma in [0, 1]."""
    if not T > 0:
        raise InputError(f"T is {T}; expected a number above 0: a class is written until it has been seen T times.")
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma is {gamma}; expected a rate in [0, 1]: 0 sets no floor, 1 always overwrites.")


def _flatten(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)


def _check_shapes(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    if weight.ndim != 2:
        raise InputError(f"weight is {list(weight.shape)}; expected [num_classes, features].")
    if hidden.shape != (*target.shape, weight.shape[1]):
        raise InputError(
            f"hidden is {list(hidden.shape)} and target {list(target.shape)}; expected hidden [..., {weight.shape[1]}] "
            f"(the width of weight) and target with the same leading dimensions."
        )
    if target.dtype != torch.int64 or not hidden.is_floating_point():
        raise InputError(
            f"hidden is {hidden.dtype} and target {target.dtype}; expected floating point and torch.int64."
        )


def _check_range(lowest: int, highest: int, num_classes: int, ignore_index: int) -> None:
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"target holds the label {lowest if lowest < 0 else highest}; expected 0 to {num_classes - 1} "
            f"(num_classes = {num_classes}), or {ignore_index} for what does not count."
        )
