"""The arithmetic of the output layer as pure tensor functions: the write and the loss.

Shapes, as suffixes of tensor names: N tokens, V classes, D features, U distinct classes of a batch.
"""

from typing import Literal

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiled import nll_per_token, nll_sum

IGNORE_INDEX = -100


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


def class_sums(hidden: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the activations of each class that occurs in a batch.

    Args:
        hidden: [..., D] float.
        target: [...] int64; entries equal to ``ignore_index`` do not count.

    Returns:
        classes [U] int64 in rising order, sums [U, D] in the dtype of ``hidden``, occurrences [U] int64.
    """
    h_ND, y_N = _flatten(hidden, target)
    keep_N = y_N != ignore_index
    classes_U, inverse_N, occurrences_U = torch.unique(y_N[keep_N], return_inverse=True, return_counts=True)
    return (
        classes_U,
        h_ND.new_zeros(len(classes_U), h_ND.shape[1]).index_add_(0, inverse_N, h_ND[keep_N]),
        occurrences_U,
    )


def class_means(hidden: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`class_sums`, with means [U, D] in place of the sums."""
    classes_U, sums_UD, occurrences_U = class_sums(hidden, target, ignore_index=ignore_index)
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
    dtype = torch.promote_types(weight.dtype, torch.float32)
    classes_U, means_UD, occurrences_U = class_means(hidden.to(dtype), target, ignore_index=ignore_index)
    if len(classes_U):
        _check_range(int(classes_U[0]), int(classes_U[-1]), weight.shape[0], ignore_index)
    hebbian_write_(weight, counts, classes_U, means_UD, occurrences_U, T=T, gamma=gamma)


@torch.no_grad()
def hebbian_write_(
    weight: Tensor,
    counts: Tensor,
    classes: Tensor,
    means: Tensor,
    occurrences: Tensor,
    *,
    T: float,
    gamma: float,
) -> None:
    """The second half of :func:`hebbian_update_`, for means that were formed elsewhere, as over several processes.

    Args:
        weight: [V, D] float, written in place.
        counts: [V] int64, c_i, counted up in place.
        classes: [U] int64, distinct, each in [0, V); not checked.
        means: [U, D] float, the mean activation of each; float32 at least, so that a half-precision row rounds once.
        occurrences: [U] int64, how many activations each mean is of.
        T, gamma: as :func:`hebbian_update_`.

    Raises:
        InputError: (a ``ValueError``) a shape, the dtype of ``counts``, T or gamma is not as above.
    """
    check_rule(T, gamma)
    if counts.shape != weight.shape[:1] or counts.dtype != torch.int64:
        raise InputError(
            f"counts is {list(counts.shape)} of {counts.dtype}; expected [{weight.shape[0]}] of torch.int64, "
            f"one count for each row of weight."
        )
    if means.shape != (*classes.shape, weight.shape[1]) or occurrences.shape != classes.shape:
        raise InputError(
            f"classes is {list(classes.shape)}, means {list(means.shape)} and occurrences {list(occurrences.shape)}; "
            f"expected [U], [U, {weight.shape[1]}] (the width of weight) and [U]."
        )
    before_U = counts[classes]
    counts[classes] = before_U + occurrences
    written_U = before_U < T
    classes_U, means_UD = classes[written_U], means[written_U]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    rate_U = hebbian_rate(before_U[written_U], T=T, gamma=gamma, dtype=dtype)
    rows_UD = torch.lerp(weight[classes_U].to(dtype), means_UD.to(dtype), rate_U[:, None])
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
    nll_out: Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of a linear layer without ever holding the [N, V] logits.

    .. math:: \mathrm{nll}_n = \log \sum_v \exp(\theta_v \cdot h_n + b_v) - (\theta_{y_n} \cdot h_n + b_{y_n})

    How, and why so, is told in ``firstsight/_cross_entropy.py``. Gradients of gradients are not available.

    Args:
        hidden: [..., D] float.
        weight: [V, D] float.
        target: [...] int64; ``ignore_index`` entries give 0 and no gradient.
        bias: [V] or None.
        reduction: "mean" over the tokens that count (0 when there are none: our decision, so that an empty
            batch is no NaN), "sum", or "none" for one value a token.
        compute_dtype: dtype of the matrix products, for example ``torch.bfloat16``; sums and exponentials stay
            in float32 at least. None: the autocast dtype under autocast, else the inputs' own.
        nll_out: [...] float, filled with the NLL of each token, outside the graph and at no extra cost: what lies
            behind a mean. None: nothing.

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
    if nll_out is not None and nll_out.shape != target.shape:
        raise InputError(f"nll_out is {list(nll_out.shape)}; expected {list(target.shape)}, one value for each target.")
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
        if reduction == "none":
            nll_N = nll_per_token(h_ND, weight, bias, kept_N, compute_dtype)
        else:
            total, nll_N = nll_sum(h_ND, weight, bias, kept_N, compute_dtype)
    if nll_out is not None:
        nll_out.copy_(_spread(nll_N.detach(), keep_N, target))
    if reduction == "none":
        return _spread(nll_N, keep_N, target)
    return total / (max(len(kept_N), 1) if reduction == "mean" else 1)


def _spread(nll_N: Tensor, keep_N: Tensor, target: Tensor) -> Tensor:
    """The values of the tokens that count at their places [...], 0 elsewhere."""
    return nll_N.new_zeros(keep_N.shape).masked_scatter(keep_N, nll_N).view(target.shape)


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


def _check_labels(hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int) -> None:
    _check_shapes(hidden, weight, target)
    if (kept_N := target[target != ignore_index]).numel():
        _check_range(int(kept_N.min()), int(kept_N.max()), weight.shape[0], ignore_index)


def _check_range(lowest: int, highest: int, num_classes: int, ignore_index: int) -> None:
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"target holds the label {lowest if lowest < 0 else highest}; expected 0 to {num_classes - 1} "
            f"(num_classes = {num_classes}), or {ignore_index} for what does not count."
        )
