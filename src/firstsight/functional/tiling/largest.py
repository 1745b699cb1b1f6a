"""The largest logits, in tiles of classes.

Shapes: N activations, V classes, D features, C classes of a tile, G of a group of them.

The k largest of a tile lie in the k groups with the largest maxima, so that what is sorted is C / G maxima and k G
logits, not C: a pass for the maxima costs a fraction of the product, where ``torch.topk`` of a tile takes several times
as long as it.
"""

import torch
from torch import Tensor
from torch.return_types import topk

from firstsight.functional.tiling.tiles import kind, slices

_HELD = {"cpu": 2**21, "cuda": 2**27}  # logits of a tile
_ROWS = 4096  # activations at once
_GROUP = 128


def largest_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> topk:
    """The k largest of theta_v . h + b_v and their classes, each [..., k], for hidden [..., D] and weight [V, D]."""
    shape = (*hidden.shape[:-1], k)
    parts = [_of_rows(h_ND, weight, bias, k) for h_ND in torch.split(hidden.reshape(-1, hidden.shape[-1]), _ROWS)]
    value_Nk, class_Nk = (torch.cat(part) for part in zip(*parts, strict=True))
    return topk((value_Nk.view(shape), class_Nk.view(shape)))


def _of_rows(h_ND: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    h_ND = h_ND.to(weight.dtype)
    width = max(k, min(len(weight), _HELD[kind(weight)] // max(1, len(h_ND))))
    value_Nk = h_ND.new_empty(len(h_ND), 0)
    class_Nk = torch.empty(len(h_ND), 0, dtype=torch.int64, device=h_ND.device)
    held_NC = h_ND.new_empty(len(h_ND) * width)
    for v in slices(len(weight), width):
        z_NC = held_NC[: len(h_ND) * (v.stop - v.start)].view(len(h_ND), v.stop - v.start)
        if bias is None:
            torch.mm(h_ND, weight[v].t(), out=z_NC)
        else:
            torch.addmm(bias[v].to(weight.dtype), h_ND, weight[v].t(), out=z_NC)
        best = largest_of(z_NC, min(k, z_NC.shape[1]))
        # Those of the classes before come first, so that of equal logits the order is that of one whole row.
        both = torch.cat([value_Nk, best[0]], 1).topk(min(k, value_Nk.shape[1] + best[0].shape[1]))
        class_Nk = torch.cat([class_Nk, best[1] + v.start], 1).gather(1, both.indices)
        value_Nk = both.values
    return value_Nk, class_Nk


def largest_of(z_NC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``z.topk(k)`` of contiguous logits, by groups."""
    N, C = z_NC.shape
    groups = C // _GROUP
    if groups <= 2 * k:
        best = z_NC.topk(k)
        return best.values, best.indices
    whole = groups * _GROUP
    z_NgG = z_NC[:, :whole].view(N, groups, _GROUP)
    near_Nk = z_NgG.amax(2).topk(k).indices
    some_NkG = z_NgG.gather(1, near_Nk[:, :, None].expand(N, k, _GROUP))
    best = torch.cat([some_NkG.flatten(1), z_NC[:, whole:]], 1).topk(k)
    at_Nk = near_Nk.gather(1, (best.indices // _GROUP).clamp(max=k - 1)) * _GROUP + best.indices % _GROUP
    rest_Nk = best.indices - k * _GROUP  # of what is past the last whole group
    return best.values, torch.where(rest_Nk < 0, at_Nk, rest_Nk + whole)
