"""The nearest pairs of each query, exact, ties too.

Shape suffixes: Q queries of a block, M the pairs that a query sees, W those that a block sees, K neighbours,
X candidates, D features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.functional.tiling.tiles import kind, slices
from firstsight.memory.cache import banded

EPS = 1e-3  # of the kernel: FACTS, our decision where the paper is silent
_MARGIN = 64  # candidates beyond the K nearest
_GATHERED = {"cpu": 2**19, "cuda": 2**27}  # values of activations gathered at once


def nearest(h_QD: Tensor, keys: Tensor, start: int, M: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The K = min(k, M) nearest of the M pairs before each query by Euclidean distance, the nearest first.

    At equal distance the more recent pair comes first (our decision). The query at row q stands at position
    ``start + q`` of ``keys``; its pairs are counted from the oldest, ``start + q - M``, which may lie before the first.

    The products find K and some more candidates; their distances are then computed directly, since |a|^2 + |b|^2
    - 2 a.b loses what distinguishes near pairs. Where the products' rounding could have hidden a neighbour, or
    pairs at the same distance, all distances of that query are computed directly.

    Returns:
        Of each query's neighbours: places in 0 to M - 1, squared distances, and inner products with the query, each
        [Q, K]. A squared distance is infinite where a query has fewer than K pairs.
    """
    Q, D = h_QD.shape
    K, X, missing = min(k, M), min(k + _MARGIN, M), max(0, M - start)
    scores_QM = banded(h_QD, keys.t(), start, M, h_QD.new_empty(Q * (M + Q)))
    origin_Q = torch.arange(start - M, start - M + Q, device=h_QD.device)
    every_M = torch.arange(M - 1, -1, -1, device=h_QD.device)
    if X == M:
        place_QK, squared_QK = _directly(h_QD, keys, origin_Q, every_M.expand(Q, M), K)
    else:
        square_W = F.pad(keys[start - M + missing : start + Q - 1].square().sum(1), (missing, 0))
        # Less |h|^2, which is the same for all pairs of a query.
        found = (square_W.as_strided((Q, M), (1, 1)) - 2 * scores_QM).topk(X, largest=False, sorted=False)
        latest_QX = found.indices.sort(descending=True).values
        place_QK, squared_QK = _directly(h_QD, keys, origin_Q, latest_QX, K)
        square_Q, farthest_Q = h_QD.square().sum(1), found.values.amax(1)
        rounding_Q = product_eps(h_QD.dtype) * (D + 4) * (square_Q + square_W.max())
        unsure_Q = squared_QK[:, -1] >= farthest_Q + square_Q - rounding_Q
        row = (unsure_Q & (farthest_Q < math.inf)).nonzero()[:, 0]  # infinite: all of its pairs were candidates
        place_QK[row], squared_QK[row] = _directly(h_QD[row], keys, origin_Q[row], every_M.expand(len(row), M), K)
    dot_QK = scores_QM.gather(1, place_QK).masked_fill_(squared_QK == math.inf, 0.0)
    return place_QK, squared_QK, dot_QK


def kernel(squared: Tensor) -> Tensor:
    """w_k = 1 / (eps + squared distance), [Q, K], normalised to sum to 1; 0 where there is no pair."""
    weight = (squared + EPS).reciprocal()
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def _directly(h_QD: Tensor, keys: Tensor, origin_Q: Tensor, place_QX: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The K nearest of the candidates, which come latest first, and their squared distances [Q, K]."""
    parts = []
    for q in slices(len(h_QD), max(1, _GATHERED[kind(keys)] // (place_QX.shape[1] * keys.shape[1]))):
        position_RX = origin_Q[q, None] + place_QX[q]
        near_RXD = keys[position_RX.clamp(min=0)]
        squared_RX = near_RXD.sub_(h_QD[q, None]).square_().sum(-1).masked_fill_(position_RX < 0, math.inf)
        nearest = squared_RX.sort(stable=True)
        parts.append((place_QX[q].gather(1, nearest.indices[:, :K]), nearest.values[:, :K]))
    if not parts:
        return place_QX[:, :K], h_QD.new_empty(0, K)
    return torch.cat([place for place, _ in parts]), torch.cat([squared for _, squared in parts])


def product_eps(dtype: torch.dtype) -> float:
    """How coarsely matrix products may round: TensorFloat32 or bfloat16 where the user has allowed them."""
    allowed = {"high": 2.0**-10, "medium": 2.0**-7} if dtype == torch.float32 else {}
    return allowed.get(torch.get_float32_matmul_precision(), torch.finfo(dtype).eps)
