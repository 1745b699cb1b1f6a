"""The loss: cross entropy of a linear layer, in tiles.

Shapes, as suffixes of tensor names: N tokens, V classes, D features.
"""

from typing import Literal

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import (
    IGNORE_INDEX,
    as_labels,
    check_class_weight,
    check_shapes,
    counted,
    product_dtype,
)
from firstsight.functional.tiling.tiled import nll_per_token, nll_sum


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
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross entropy of a linear layer without ever holding the [N, V] logits.

    .. math:: \mathrm{nll}_n = \log \sum_v \exp(\theta_v \cdot h_n + b_v) - (\theta_{y_n} \cdot h_n + b_{y_n})

    With a weight w for each class and label smoothing :math:`\epsilon`, as ``F.cross_entropy`` has them,

    .. math:: \ell_n = (1 - \epsilon)\, w_{y_n} \mathrm{nll}_n
              - \frac{\epsilon}{V} \sum_v w_v \log p_v(h_n), \qquad
              \mathrm{mean} = \sum_n \ell_n \Big/ \sum_n w_{y_n}

    in closed form: :math:`\sum_v w_v (\theta_v \cdot h + b_v) = h \cdot \theta^\top w + b \cdot w`.

    How, and why so, is told in ``tiling/tiled.py``. A gradient that is to have a gradient itself
    (``create_graph=True``: a gradient penalty, a Hessian) is right as well, but holds the [N, V] logits; for it, weight
    and bias have to be as they were in the forward pass, else a RuntimeError is raised.

    Args:
        hidden: [..., D] float.
        weight: [V, D] float.
        target: [...] integers; ``ignore_index`` entries give 0 and no gradient.
        bias: [V] or None.
        reduction: "mean" over the tokens that count (0 when there are none: our decision, so that an empty
            batch is no NaN; likewise where all weights are 0), "sum", or "none" for one value a token.
        compute_dtype: dtype of the matrix products, for example ``torch.bfloat16``; sums and exponentials stay
            in float32 at least. None: the autocast dtype under autocast, else the inputs' own.
        nll_out: [...] float, filled with the NLL of each token, outside the graph and at no extra cost: what lies
            behind a mean, without weights and smoothing. None: nothing.
        class_weight: [V] float, 0 or more, or None for 1. No gradient reaches it.
        label_smoothing: epsilon, in [0, 1].

    Returns:
        A scalar, or [...] for "none"; nats. float32 at least.

    Raises:
        InputError: (a ``ValueError``) a shape, dtype or label is not as above.
    """
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'.")
    target = as_labels(target)
    check_shapes(hidden, weight, target)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"bias is {list(bias.shape)}; expected [{weight.shape[0]}], one value for each row of weight.")
    if nll_out is not None and nll_out.shape != target.shape:
        raise InputError(f"nll_out is {list(nll_out.shape)}; expected {list(target.shape)}, one value for each target.")
    _check_weighting(class_weight, label_smoothing, weight.shape[0])
    compute_dtype = product_dtype(hidden, weight, compute_dtype)
    h_ND, kept_N, keep_N = counted(hidden, target, weight.shape[0], ignore_index)
    weighting = _Weighting(weight, kept_N, class_weight, label_smoothing)
    with torch.autocast(hidden.device.type, enabled=False):
        of = nll_per_token if reduction == "none" else nll_sum
        loss, nll_N = of(h_ND, weight, bias, kept_N, compute_dtype, weighting.share_N, weighting.even_V)
    if nll_out is not None:
        nll_out.copy_(_spread(nll_N, keep_N, target))
    if reduction == "none":
        return _spread(loss, keep_N, target)
    return loss / weighting.divisor() if reduction == "mean" else loss


class _Weighting:
    """What class weights and smoothing make of the NLL of tokens: a share of it, and a term that is linear in h."""

    def __init__(self, w_VD: Tensor, y_N: Tensor, class_weight_V: Tensor | None, epsilon: float) -> None:
        dtype = torch.promote_types(w_VD.dtype, torch.float32)
        self.y_N = y_N
        self.of_V = None if class_weight_V is None else class_weight_V.detach().to(dtype)
        self.share_N: Tensor | None = None  # of the NLL in the loss; 1 - epsilon + epsilon without weights
        self.even_V: Tensor | None = None  # of the term: see ``nll_sum``
        if self.of_V is not None:
            self.share_N = (1 - epsilon) * self.of_V[y_N] + epsilon * self.of_V.sum() / len(w_VD)
        if epsilon:
            of_V = w_VD.new_ones(len(w_VD), dtype=dtype) if self.of_V is None else self.of_V
            self.even_V = of_V * (epsilon / len(w_VD))

    def divisor(self) -> Tensor | float:
        """What a mean divides by."""
        if self.of_V is None:
            return max(len(self.y_N), 1)
        weight = self.of_V[self.y_N].sum()
        return torch.where(weight > 0, weight, 1.0)


def _check_weighting(class_weight: Tensor | None, label_smoothing: float, num_classes: int) -> None:
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing is {label_smoothing}; expected a share in [0, 1], like 0.1.")
    if class_weight is not None:
        check_class_weight(class_weight, num_classes)


def _spread(nll_N: Tensor, keep_N: Tensor, target: Tensor) -> Tensor:
    """The values of the tokens that count at their places [...], 0 elsewhere."""
    return nll_N.new_zeros(keep_N.shape).masked_scatter(keep_N, nll_N).view(target.shape)
