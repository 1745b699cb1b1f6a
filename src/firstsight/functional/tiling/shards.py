"""The loss of a head that has some of the classes: what it gives to the sums over all of them, and its gradients.

Shapes: N tokens, V classes that are here, D features. A label is the place of a class here, or -1 for one elsewhere.
"""

import torch
from torch import Tensor

from firstsight.functional.tiling.logits import Logits
from firstsight.functional.tiling.passes import running_sum, second_pass
from firstsight.functional.tiling.tiles import LOG2_E


def part_of(
    h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, y_N: Tensor, compute_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the classes here but the target, the largest logit to base 2 and the sum of the powers less it; its logit.

    Each [N]; the last in nats, and -inf where the target is elsewhere.
    """
    with torch.autocast(h_ND.device.type, enabled=False):
        logits = Logits(h_ND, w_VD, b_V, compute_dtype)
        max_N1, others_N1 = running_sum(logits, y_N)
        z_N1 = logits.of(y_N.clamp(min=0), h_ND, b_V) + logits.shift
        lowest = torch.finfo(logits.sum_dtype).min
        max_N = (max_N1[:, 0] + logits.shift * LOG2_E).clamp(min=lowest)
        return max_N, others_N1[:, 0], z_N1[:, 0].masked_fill(y_N < 0, -torch.inf)


def part_gradients(
    given: tuple[Tensor, Tensor, Tensor | None],
    y_N: Tensor,
    compute_dtype: torch.dtype,
    g_N: Tensor,
    target_N: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
    even_V: Tensor | None,
) -> list[Tensor | None]:
    """What the classes here give to the gradient of h, and the gradients of their rows and biases.

    Args:
        given: h [N, D], w [V, D], b [V] or None.
        y_N: as above. compute_dtype: as in the forward pass.
        g_N: the gradient of each token's loss. target_N: of its NLL.
        sums: of all classes wherever they are, the largest logit [N] to base 2, the sum of the powers less it [N];
            and what is taken off for a target that is here [N].
        even_V: of each logit in the loss, which is less them; None for nothing.
    """
    h_ND, w_VD, b_V = given
    with torch.autocast(h_ND.device.type, enabled=False):
        logits = Logits(h_ND, w_VD, b_V, compute_dtype)
        max_N1 = sums[0][:, None] - logits.shift * LOG2_E
        off_N = sums[2].masked_fill(y_N < 0, 0)
        grads = second_pass(logits, given, y_N, g_N, target_N, (max_N1, sums[1][:, None], off_N))
        if even_V is None:
            return grads
        gh_ND, gw_VD, gb_V = (None if g is None else g.to(logits.sum_dtype) for g in grads)
        assert gh_ND is not None
        assert gw_VD is not None
        gh_ND.addr_(g_N, even_V @ w_VD.to(even_V.dtype), alpha=-1)
        gw_VD.addr_(even_V, g_N @ h_ND.to(g_N.dtype), alpha=-1)
        if gb_V is not None:
            gb_V.sub_(even_V * g_N.sum())
        pairs = zip((gh_ND, gw_VD, gb_V), given, strict=True)
        return [None if g is None or t is None else g.to(t.dtype) for g, t in pairs]
