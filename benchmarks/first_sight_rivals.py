"""What people do today when new classes come to a trained layer: imprinting, fine-tuning with replay, training anew.

Each gives weights [V + U, D] and biases [V + U] of a layer of V classes and U new ones. The setting of the fine-tuning
is the best of 27 on the splits for development (benchmarks/first_sight_tuning.py), at the harm it is compared at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight import Softmax

Layer = tuple[Tensor, Tensor]
REPLAYED, NEW_IN_STEP, IN_STEP = 2048, 64, 256


def imprinted(layer: Layer, shown_h: Tensor) -> Layer:
    """Qi et al. (2018): the direction of the examples' mean, the mean length of trained rows, their mean bias.

    ``shown_h``: [U, k, D].
    """
    weight, bias = layer
    rows = F.normalize(shown_h.mean(1), dim=1) * weight.norm(dim=1).mean()
    return torch.cat([weight, rows]), torch.cat([bias, bias.mean().expand(len(rows))])


def finetuned(
    layer: Layer, shown_h: Tensor, old_h: Tensor, old_y: Tensor, *, rate: float, share: float, steps: int, all_old: bool
) -> Layer:
    """Imprinting, then Adam on the new rows and biases alone, with examples of the old classes played again.

    Args:
        layer: as it was trained.
        shown_h: [U, k, D] examples of the new classes.
        old_h: [N, D] training examples of the old classes.
        old_y: [N] their labels.
        rate: of Adam.
        share: of the loss that is the new classes'.
        steps: how many.
        all_old: play all training examples again, not 2,048 of them.
    """
    g, (weight, bias) = torch.Generator().manual_seed(0), imprinted(layer, shown_h)
    V, (U, k, D) = len(layer[0]), shown_h.shape
    rows, biases = weight[V:].clone().requires_grad_(), bias[V:].clone().requires_grad_()
    kept = torch.arange(len(old_y)) if all_old else torch.randperm(len(old_y), generator=g)[:REPLAYED]
    new_h, new_y = shown_h.reshape(-1, D), torch.arange(V, V + U).repeat_interleave(k)
    optimizer = torch.optim.Adam([rows, biases], lr=rate)
    for _ in range(steps):
        old = kept[torch.randint(len(kept), (IN_STEP,), generator=g)]
        new = torch.randint(len(new_y), (min(NEW_IN_STEP, len(new_y)),), generator=g)
        weight, bias = torch.cat([layer[0], rows]), torch.cat([layer[1], biases])
        loss = (1 - share) * F.cross_entropy(F.linear(old_h[old], weight, bias), old_y[old])
        loss = loss + share * F.cross_entropy(F.linear(new_h[new], weight, bias), new_y[new])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.cat([layer[0], rows.detach()]), torch.cat([layer[1], biases.detach()])


def anew(h: Tensor, y: Tensor, num_classes: int, rate: float, epochs: int, batch: int) -> Layer:
    """A plain softmax trained from the start on all there is, old and new."""
    torch.manual_seed(0)
    head = Softmax(h.shape[1], num_classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(batch):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            head.loss(h[part], y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert head.bias is not None
    return head.weight.detach(), head.bias.detach()
