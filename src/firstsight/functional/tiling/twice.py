"""Gradients that have gradients: the loss's own, by plain operations on all logits at once.

Shapes: N tokens, V classes, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_gradients(
    g_N: Tensor,
    h_ND: Tensor,
    w_VD: Tensor,
    b_V: Tensor | None,
    y_N: Tensor,
    dtype: torch.dtype,
    token_weight_N: Tensor | None = None,
    even_V: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of sum_n g_n loss_n with respect to h, w and b, as a graph of g, h, w and b; holds [N, V].

    g [N], arguments else as ``nll_sum``; ``dtype``: what it is computed in. Written out, and not asked of autograd:
    h may be made from w, and autograd would go on from one to the other.
    """
    with torch.autocast(h_ND.device.type, enabled=False):
        of_h, of_w = h_ND.dtype, w_VD.dtype
        g_N, h_ND, w_VD = (x.to(dtype) for x in (g_N, h_ND, w_VD))
        z_NV = h_ND @ w_VD.t()
        if b_V is not None:
            z_NV = z_NV + b_V.to(dtype)
        share_N = g_N if token_weight_N is None else g_N * token_weight_N.to(dtype)
        gz_NV, target_N = z_NV.softmax(1) * share_N[:, None], share_N
        if even_V is not None:
            even_V = even_V.to(dtype)
            gz_NV, target_N = gz_NV - g_N[:, None] * even_V, share_N - g_N * even_V.sum()
        gz_NV = gz_NV.scatter_add(1, y_N[:, None], -target_N[:, None])
        gb_V = None if b_V is None else gz_NV.sum(0).to(b_V.dtype)
        return (gz_NV @ w_VD).to(of_h), (gz_NV.t() @ h_ND).to(of_w), gb_V


def versions(tensors: Sequence[Tensor | None]) -> list[int]:
    """How often each has been changed in place; -1 where that is not counted."""
    return [-1 if t is None or t.is_inference() else t._version for t in tensors]


def check_unchanged(tensors: Sequence[Tensor | None], before: list[int]) -> None:
    """Raise RuntimeError, as torch does, if one has been changed in place since ``versions`` gave ``before``."""
    for name, now, then in zip(("weight", "bias"), versions(tensors), before, strict=True):
        if now != then:
            raise RuntimeError(
                f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"the {name} of linear_cross_entropy is at version {now}; expected version {then} instead. A gradient "
                f"that has a gradient (create_graph=True) needs it as it was in the forward pass."
            )


def is_batched(gradient: Tensor) -> bool:
    """Whether it stands for several, of ``is_grads_batched`` or vmap: there is no one gradient then."""
    functorch = torch._C._functorch
    return bool(functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient))
