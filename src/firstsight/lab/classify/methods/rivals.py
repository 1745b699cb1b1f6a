"""What people do today when new classes come to a trained linear layer: imprinting, and fine-tuning with replay.

Each gives weights [V + U, D] and biases [V + U] of a layer of V classes and U new ones.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Layer = tuple[Tensor, Tensor]
"""Weights [V, D] and biases [V]."""
NEW_IN_STEP, IN_STEP = 64, 256


class Setting(NamedTuple):
    """Of a fine-tuning."""

    rate: float  # of Adam
    share: float | None  # of the loss that is the new classes'; None: as many as there are of their examples
    steps: int
    replayed: int  # training examples that were kept to be played again
    all_rows: bool  # train the old classes' rows too


ALL_DATA = Setting(0.03, 0.25, 960, 10**9, True)
"""The best of all that were tried on development splits of the ICD texts: benchmarks/first_sight_rivals.py."""


def imprinted(layer: Layer, shown_h: Tensor) -> Layer:
    """Qi et al. (2018): the direction of the examples' mean, the mean length of trained rows, their mean bias.

    ``shown_h``: [U, k, D].
    """
    weight, bias = layer
    rows = F.normalize(shown_h.mean(1), dim=1) * weight.norm(dim=1).mean()
    return torch.cat([weight, rows]), torch.cat([bias, bias.mean().expand(len(rows))])


def finetuned(start: Layer, shown_h: Tensor, old_h: Tensor, old_y: Tensor, setting: Setting, *, seed: int = 0) -> Layer:
    """Adam, with examples of the old classes played again.

    Args:
        start: of V + U classes, the new ones as they got their rows at once: imprinted, or written.
        shown_h: [U, k, D] examples of the new classes.
        old_h: [N, D] training examples of the old classes.
        old_y: [N] their labels.
        setting: what is trained, on what, for how long.
        seed: of the examples that are kept and drawn.
    """
    g, (U, k, D) = torch.Generator().manual_seed(seed), shown_h.shape
    V = len(start[0]) - U
    first = 0 if setting.all_rows else V
    rows, biases = (part[first:].clone().requires_grad_() for part in start)
    kept = torch.randperm(len(old_y), generator=g)[: setting.replayed]
    new_h, new_y = shown_h.reshape(-1, D), torch.arange(V, V + U).repeat_interleave(k)
    share = setting.share or len(new_y) / (len(old_y) + len(new_y))
    optimizer = torch.optim.Adam([rows, biases], lr=setting.rate)
    for _ in range(setting.steps):
        old = kept[torch.randint(len(kept), (IN_STEP,), generator=g)]
        new = torch.randint(len(new_y), (min(NEW_IN_STEP, len(new_y)),), generator=g)
        weight, bias = torch.cat([start[0][:first], rows]), torch.cat([start[1][:first], biases])
        loss = (1 - share) * F.cross_entropy(F.linear(old_h[old], weight, bias), old_y[old])
        loss = loss + share * F.cross_entropy(F.linear(new_h[new], weight, bias), new_y[new])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.cat([start[0][:first], rows.detach()]), torch.cat([start[1][:first], biases.detach()])
