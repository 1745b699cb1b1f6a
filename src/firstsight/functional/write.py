"""The write as pure tensor functions.

Shapes, as suffixes of tensor names: N tokens, V classes, D features, U distinct classes of a batch.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, as_labels, check_range, check_rule, check_shapes, flatten

# Classes [U], their rows [U, D] before a write, the mean activation [U, D], the count [U] before the batch and the
# number of activations [U] of each -> the rows after it, and what their biases [U] change by (None: nothing).
Move: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


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
    h_ND, y_N = flatten(hidden, target)
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
        target: [...] integers, the classes; ``ignore_index`` entries do not count.
        T: number of sights after which a row is no longer written, above 0.
        gamma: smallest rate, in [0, 1].

    Raises:
        InputError: (a ``ValueError``) a shape, dtype, label, T or gamma is not as above, or an activation that counts
            is NaN or infinite. Nothing is written or counted then.
    """
    check_rule(T, gamma)
    target = as_labels(target)
    check_shapes(hidden, weight, target)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    means = class_means(hidden.to(dtype), target, ignore_index=ignore_index)
    if len(means[0]):
        check_range(int(means[0][0]), int(means[0][-1]), weight.shape[0], ignore_index)
    check_finite(hidden, target, means[1], ignore_index)

    def move(_: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, __: Tensor) -> tuple[Tensor, None]:
        rate_U = hebbian_rate(before_U, T=T, gamma=gamma, dtype=dtype)
        return torch.lerp(rows_UD, means_UD, rate_U[:, None]), None

    move_rows_(weight, None, counts, means, move, T=T)


def check_finite(hidden: Tensor, target: Tensor, sums_UD: Tensor, ignore_index: int) -> None:
    """Raise InputError if an activation that counts is NaN or infinite, which its class's sum or mean then is too."""
    if bool(sums_UD.isfinite().all()):
        return
    bad = ~hidden.isfinite().all(-1) & (target != ignore_index)
    which = f"{int(bad.sum()):,} with NaN or infinity" if bool(bad.any()) else "some too large to add up"
    raise InputError(
        f"of the activations that count, {which}: their rows would be so from then on. Expected finite ones, or "
        f"{ignore_index} as their target. Has the model diverged, or does it overflow in half precision?"
    )


@torch.no_grad()
def move_rows_(
    weight: Tensor,
    bias: Tensor | None,
    counts: Tensor,
    means: tuple[Tensor, Tensor, Tensor],
    move: Move,
    *,
    T: float,
) -> None:
    """Count a batch's classes, and move the rows of those that were seen fewer than T times: the engine of all rules.

    Args:
        weight: [V, D] float, moved in place.
        bias: [V] or None, moved in place where ``move`` says so.
        counts: [V] int64, c_i, counted up in place.
        means: as :func:`class_means` gives them: classes [U] int64, distinct, each in [0, V), not checked; their mean
            activations [U, D], float32 at least, so that a half-precision row rounds once; occurrences [U] int64.
        move: gives the new rows of the classes that are written.
        T: number of sights after which a row is no longer written.

    Raises:
        InputError: (a ``ValueError``) counts is not as above.
    """
    if counts.shape != weight.shape[:1] or counts.dtype != torch.int64:
        raise InputError(
            f"counts is {list(counts.shape)} of {counts.dtype}; expected [{weight.shape[0]}] of torch.int64, "
            f"one count for each row of weight."
        )
    classes_U, means_UD, occurrences_U = means
    before_U = counts[classes_U].clamp(min=1)  # of 0 the rate would have no end
    counts[classes_U] = before_U + occurrences_U
    written_U = before_U < T
    classes_U, means_UD, occurrences_U, before_U = (
        x[written_U] for x in (classes_U, means_UD, occurrences_U, before_U)
    )
    if len(classes_U) == 0:
        return
    rows_UD, change_U = move(classes_U, weight[classes_U].to(means_UD.dtype), means_UD, before_U, occurrences_U)
    weight[classes_U] = rows_UD.to(weight.dtype)
    if bias is not None and change_U is not None:
        bias[classes_U] += change_U.to(bias.dtype)
