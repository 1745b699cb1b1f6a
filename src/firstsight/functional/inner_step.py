r"""The write as one gradient step on an inner loss: equation (7), as pure tensor functions.

Shapes, as suffixes of tensor names: N tokens, V classes, D features, U distinct classes of a batch.
"""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, as_labels, check_labels, check_rule
from firstsight.functional.cross_entropy import linear_cross_entropy
from firstsight.functional.write import check_finite, class_means, hebbian_rate, hebbian_update_, move_rows_

Objective: TypeAlias = Literal["l2", "softmax", "inner_product", "missed", "half"]


@torch.no_grad()
def inner_step_(
    weight: Tensor,
    counts: Tensor,
    hidden: Tensor,
    target: Tensor,
    *,
    objective: Objective,
    bias: Tensor | None = None,
    T: float,
    gamma: float,
    ignore_index: int = IGNORE_INDEX,
) -> None:
    r"""Move the row of each class of a batch by one gradient step of size :math:`\lambda_i` on an inner loss, in place.

    .. math:: \theta_i \leftarrow \theta_i - \lambda_i \frac{\partial}{\partial \theta_i}
              \frac{1}{n_i} \sum_{j : y_j = i} \ell_j, \qquad c_i \leftarrow c_i + n_i

    for every class i that occurs, all rows at once, from where they were; :math:`\lambda_i` is :func:`hebbian_rate` of
    the count *before* the batch. By ``objective``, with p the softmax of the layer as it was:

    - ``"l2"``: :math:`\ell_j = \frac12 |\theta_i - h_j|^2`. The rule of the paper, :func:`hebbian_update_`.
    - ``"softmax"``: :math:`\ell_j = -\log p_i(h_j)`, the step :math:`+ \lambda_i \overline{(1 - p_i(h_j))\, h_j}`.
    - ``"inner_product"``: :math:`\ell_j = -\theta_i \cdot h_j`, the step :math:`+ \lambda_i \overline{h}_i`.

    Cost: O(N D), but for ``"softmax"`` O(N V D), in tiles, as a forward pass of the loss.

    Source: equation (7) and Figure 9 name the three (appendix). That each is one step of size :math:`\lambda`, and of
    several examples the mean of their losses, is our decision: L2 then *is* the paper's rule, and each is well-posed
    at :math:`\lambda = 1`.

    Args:
        weight: [V, D] float, written in place.
        counts: [V] int64, c_i, counted up in place.
        hidden: [..., D] float, the input of the softmax. Any floating dtype.
        target: [...] integers, the classes; ``ignore_index`` entries do not count.
        objective: as above.
        bias: [V] or None, of p. It does not move.
        T: number of sights after which a row is no longer written, above 0.
        gamma: smallest rate, in [0, 1].

    Raises:
        InputError: (a ``ValueError``) as :func:`hebbian_update_`; there is no such objective; or the probability of an
            example is NaN. Nothing is written or counted then.
    """
    check_objective(objective)
    if objective == "l2":
        hebbian_update_(weight, counts, hidden, target, T=T, gamma=gamma, ignore_index=ignore_index)
        return
    check_rule(T, gamma)
    target = as_labels(target)
    check_labels(hidden, weight, target, ignore_index)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    hidden = hidden.to(dtype)
    means = class_means(hidden, target, ignore_index=ignore_index)
    check_finite(hidden, target, means[1], ignore_index)
    if objective == "softmax":
        options = {"ignore_index": ignore_index, "compute_dtype": dtype}
        nll = linear_cross_entropy(hidden, weight, target, bias, reduction="none", **options)  # type: ignore[arg-type]
        means = class_means(surprise(nll)[..., None] * hidden, target, ignore_index=ignore_index)
        check_surprise(means[1])

    def move(_: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, __: Tensor) -> tuple[Tensor, None]:
        return rows_UD + hebbian_rate(before_U, T=T, gamma=gamma, dtype=dtype)[:, None] * means_UD, None

    move_rows_(weight, None, counts, means, move, T=T)


def surprise(nll: Tensor) -> Tensor:
    """1 - p of examples whose -log p [...] is given, in nats: exact where p is near 1, and where it is 0."""
    return -torch.expm1(-nll.clamp(min=0))


def check_surprise(of_examples: Tensor) -> None:
    """Raise InputError unless what was made of 1 - p of the examples is finite."""
    if not bool(of_examples.isfinite().all()):
        raise InputError(
            "the probability of an example is not a number, though it is finite itself: a row or a bias is NaN or "
            "infinite, or logits overflow. Nothing was written; has the model diverged?"
        )


def check_objective(objective: str) -> None:
    """Raise InputError unless there is an objective of that name."""
    if objective not in get_args(Objective):
        raise InputError(f"objective is {objective!r}; expected one of {', '.join(get_args(Objective))}.")
