"""The loss: cross entropy of a linear layer, in tiles.

Shapes, as suffixes of tensor names: N tokens, V classes, D features.
"""

from typing import Literal

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, check_range, check_shapes, flatten
from firstsight.functional.tiled import nll_per_token, nll_sum


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

    How, and why so, is told in ``tiled.py`` beside this file. Gradients of gradients are not available.

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
    check_shapes(hidden, weight, target)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"bias is {list(bias.shape)}; expected [{weight.shape[0]}], one value for each row of weight.")
    if nll_out is not None and nll_out.shape != target.shape:
        raise InputError(f"nll_out is {list(nll_out.shape)}; expected {list(target.shape)}, one value for each target.")
    device = hidden.device.type
    if compute_dtype is None:
        own = torch.promote_types(hidden.dtype, weight.dtype)
        compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    h_ND, y_N = flatten(hidden, target)
    keep_N = y_N != ignore_index
    h_ND, kept_N = h_ND[keep_N], y_N[keep_N]
    if len(kept_N):
        check_range(int(kept_N.min()), int(kept_N.max()), weight.shape[0], ignore_index)
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
