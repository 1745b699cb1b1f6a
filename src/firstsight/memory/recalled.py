"""What a memory recalls of a query: the pairs that weigh most, and the classes that most weight is on.

Shape suffixes: Q queries, W pairs in a window, K pairs shown, G classes shown, D features.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """The pairs of a text around some queries, the most recent first: of pairs alike it comes first."""

    keys_WD: Tensor
    """[W, D] activations"""
    labels_W: Tensor
    """[W] int64"""
    ago_QW: Tensor
    """[Q, W] int64: how many tokens before each query a pair stood; below 1 it lies ahead"""


class Recalled(NamedTuple):
    """Of each query the K pairs that weigh most and the G classes that most weight is on, the heaviest first.

    Places and labels of a share of 0 are of no meaning: there were fewer.
    """

    place_QK: Tensor
    """int64: how many tokens ago the pair stood; of a memory over a store of its own the number of the entry"""
    label_QK: Tensor
    """int64: the pair's class"""
    share_QK: Tensor
    """its share of all weight"""
    distance_QK: Tensor
    """Euclidean distance of its activation from the query"""
    class_QG: Tensor
    """int64"""
    vote_QG: Tensor
    """the share of all weight that the pairs of the class have together; of two alike the lower class comes first"""


def recalled_of(query_QD: Tensor, window: Window, score_QW: Tensor, share_QW: Tensor, top: int) -> Recalled:
    """What is recalled of a window whose pairs have these affinities and shares of all weight.

    Args:
        query_QD: [Q, D] activations.
        window: the pairs.
        score_QW: [Q, W] by which pairs are ordered, the larger the heavier; -inf of what is not held.
        share_QW: [Q, W] of all weight.
        top: K and G, at most.
    """
    at_QK, held_QK = _largest(score_QW, top)
    distance_QK = (window.keys_WD[at_QK] - query_QD[:, None]).norm(dim=-1)
    label_QK, share_QK = window.labels_W[at_QK], share_QW.gather(1, at_QK) * held_QK
    class_QG, vote_QG = votes(window.labels_W, share_QW, top)
    return Recalled(window.ago_QW.gather(1, at_QK), label_QK, share_QK, distance_QK, class_QG, vote_QG)


def votes(labels: Tensor, share_QW: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The classes that most weight is on and their shares, each [Q, G], from the labels [W] or [Q, W] of all pairs."""
    classes_U, slot = torch.unique(labels, return_inverse=True)
    vote_QU = share_QW.new_zeros(len(share_QW), len(classes_U)).scatter_add_(1, slot.expand_as(share_QW), share_QW)
    at_QG, held_QG = _largest(vote_QU, top)
    return classes_U[at_QG], vote_QU.gather(1, at_QG) * held_QG


def _largest(value_QW: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Where the ``top`` largest of each row are [Q, K], of those alike the first first, which ``topk`` leaves open.

    Also which of them are there [Q, K]: where all that is left is -inf, there are no more.
    """
    left_QW, places, held = value_QW.clone(), [], []
    for _ in range(min(top, value_QW.shape[1])):
        value_Q, at_Q = left_QW.max(1)  # the first of several, torch says
        left_QW.scatter_(1, at_Q[:, None], -math.inf)
        places.append(at_Q)
        held.append(value_Q > -math.inf)
    if not places:
        none = torch.empty(len(value_QW), 0, dtype=torch.int64, device=value_QW.device)
        return none, none.bool()
    return torch.stack(places, 1), torch.stack(held, 1)
