"""The largest logits, in tiles of classes.

Shapes: N activations, V classes, D features, C classes of a tile.
"""

import torch
from torch import Tensor
from torch.return_types import topk

from firstsight.functional.tiling.tiles import kind, slices

_HELD = {"cpu": 2**22, "cuda": 2**27}  # logits of a tile


def largest_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> topk:
    """The k largest of theta_v . h + b_v and their classes, each [..., k], for hidden [..., D] and weight [V, D]."""
    h_ND = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)
    width = max(k, min(len(weight), _HELD[kind(weight)] // max(1, len(h_ND))))
    value_Nk = h_ND.new_empty(len(h_ND), 0)
    class_Nk = torch.empty(len(h_ND), 0, dtype=torch.int64, device=h_ND.device)
    for v in slices(len(weight), width):
        z_NC = h_ND @ weight[v].t()
        if bias is not None:
            z_NC += bias[v]
        best = z_NC.topk(min(k, z_NC.shape[1]))
        # Those of the classes before come first, so that of equal logits the order is that of one whole row.
        both = torch.cat([value_Nk, best.values], 1).topk(min(k, value_Nk.shape[1] + best.values.shape[1]))
        class_Nk = torch.cat([class_Nk, best.indices + v.start], 1).gather(1, both.indices)
        value_Nk = both.values
    shape = (*hidden.shape[:-1], k)
    return topk((value_Nk.view(shape), class_Nk.view(shape)))
