"""The parts that both ways through the tiles are made of, and those of a head that has some of the classes alone.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from firstsight.functional.tiling.logits import Logits, Tiles, add_product_, in_range
from firstsight.functional.tiling.powers import without_targets_
from firstsight.functional.tiling.sizes import TILE
from firstsight.functional.tiling.tiles import LN_2, kind

Given: TypeAlias = tuple[Tensor, Tensor, Tensor | None]  # h, w, b, or their gradients


def zeros(given: Given, dtype: torch.dtype) -> Given:
    """Room for the gradients of h, w and b."""
    gh_ND, gw_VD = (torch.zeros_like(t, dtype=dtype) for t in given[:2])
    return gh_ND, gw_VD, None if given[2] is None else torch.zeros_like(given[2], dtype=dtype)


def running_sum(logits: Logits, y_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest logit of each token and the sum of all powers less it, to base 2, each [N, 1] in ``sum_dtype``.

    Of all classes but the target, where targets [N] are given.
    """
    lowest = torch.finfo(logits.sum_dtype).min  # not -inf: from it, a tile of classes ruled out cannot be taken
    max_N1 = logits.h_ND.new_full((len(logits.h_ND), 1), lowest, dtype=logits.sum_dtype)
    sum_N1 = torch.zeros_like(max_N1)
    for n, v, z_RC in Tiles(logits, *TILE[kind(logits.h_ND)]):
        if y_N is not None:
            without_targets_(z_RC, y_N[n], v, -torch.inf)
        old_R1 = max_N1[n]
        new_R1 = torch.maximum(old_R1, z_RC.amax(1, keepdim=True))
        sum_N1[n] = sum_N1[n] * (old_R1 - new_R1).exp2_() + z_RC.sub_(new_R1).exp2_().sum(1, keepdim=True)
        max_N1[n] = new_R1
    return max_N1, sum_N1


def nll_of(max_N1: Tensor, others_N1: Tensor, own_N1: Tensor, z_N1: Tensor) -> tuple[Tensor, Tensor]:
    """NLL [N] in nats, 0 or more, and the share of all classes but the target [N], from their powers less ``max``.

    z: the target's logit [N, 1], in nats.
    """
    sum_N1 = others_N1 + own_N1
    far_N1 = (max_N1 + sum_N1.log2()) * LN_2 - z_N1  # of a target whose power is too small to divide by
    nll_N1 = torch.where(own_N1 >= others_N1, (others_N1 / own_N1).log1p(), far_N1)
    return nll_N1[:, 0], (others_N1 / sum_N1)[:, 0]


def second_pass(
    logits: Logits,
    given: Sequence[Any],
    y_N: Tensor,
    g_N: Tensor,
    target_N: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
    even_V: Tensor | None = None,
    row_D: Tensor | None = None,
) -> list[Tensor | None]:
    """The gradients of h, w and b, from each tile of logits made again.

    ``target_N``: of each NLL; ``sums``: the largest logit [N, 1], the sum of the powers less it [N, 1], and what is
    taken off for the target [N]. A label below 0 is of no class here: of it that has to be 0.
    """
    h_ND, w_VD, b_V = given
    with torch.autocast(h_ND.device.type, enabled=False):  # as in the forward pass
        grads = gh_ND, gw_VD, gb_V = zeros((h_ND, w_VD, b_V), logits.sum_dtype)
        g_N, target_N, off_N = (x.to(logits.sum_dtype) for x in (g_N, target_N, sums[2]))
        max_N1 = sums[0] - logits.lift
        share_N1 = target_N[:, None] / (sums[1] * 2**logits.lift)
        scaled_ND, times = in_range(h_ND.to(logits.sum_dtype) * share_N1, logits.compute_dtype)
        tiles = Tiles(logits, *TILE[kind(h_ND)])
        for n, v, z_RC in tiles:
            p_RC = without_targets_(z_RC.sub_(max_N1[n]).exp2_(), y_N[n], v, 0.0)
            if gb_V is not None:
                gb_V[v] += share_N1[n, 0] @ p_RC
            p_RC = tiles.narrowed(p_RC)
            add_product_(gh_ND[n], p_RC, logits.w_VD[v], tiles.space)
            add_product_(gw_VD[v], p_RC.t(), scaled_ND[n], tiles.space, times)
        gh_ND *= share_N1
        less_linear_(grads, (h_ND, w_VD, b_V), y_N.clamp(min=0), g_N, off_N, even_V, row_D)
    return [None if t is None or g is None else g.to(t.dtype) for g, t in zip(grads, given, strict=True)]


def less_linear_(
    grads: Given,
    given: Given,
    y_N: Tensor,
    g_N: Tensor,
    target_N: Tensor,
    even_V: Tensor | None,
    row_D: Tensor | None,
) -> None:
    """Take off what no product has: of the targets, by ``target_n``, and of the linear term, by ``g_n``."""
    (gh_ND, gw_VD, gb_V), (h_ND, w_VD, _) = grads, given
    h_ND = h_ND.to(gw_VD.dtype)
    if even_V is not None and row_D is not None:
        even_V, row_D = even_V.to(gw_VD.dtype), row_D.to(gw_VD.dtype)
        target_N = target_N - g_N * even_V.sum()
        gh_ND.addr_(g_N, row_D, alpha=-1)
        gw_VD.addr_(even_V, g_N @ h_ND, alpha=-1)
        if gb_V is not None:
            gb_V.sub_(even_V * g_N.sum())
    gh_ND -= w_VD[y_N] * target_N[:, None]
    gw_VD.index_add_(0, y_N, h_ND * target_N[:, None], alpha=-1)
    if gb_V is not None:
        gb_V.index_add_(0, y_N, target_N, alpha=-1)
