"""The heads the battery runs over. A new public head is added here, once, and inherits every test."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from firstsight import (
    AdaptiveSoftmax,
    HebbianAdaptiveSoftmax,
    HebbianSampledSoftmax,
    HebbianShardedSoftmax,
    HebbianSoftmax,
    SampledSoftmax,
    ShardedSoftmax,
    Softmax,
)
from firstsight.heads.rules import RULES


class OfAll(SampledSoftmax):
    """A sample of all classes: the full softmax."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, samples=10**6, **options)


class HebbianOfAll(HebbianSampledSoftmax):
    """The same, with the write."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, samples=10**6, **options)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "Softmax": Softmax,
    "HebbianSoftmax": HebbianSoftmax,
    "SampledSoftmax": OfAll,
    "HebbianSampledSoftmax": HebbianOfAll,
    "ShardedSoftmax": ShardedSoftmax,
    "HebbianShardedSoftmax": HebbianShardedSoftmax,
    "AdaptiveSoftmax": AdaptiveSoftmax,
    "HebbianAdaptiveSoftmax": HebbianAdaptiveSoftmax,
}


def _ruled(rule: str, objective: str = "l2") -> type[HebbianSoftmax]:
    class Ruled(HebbianSoftmax):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"rule": rule, "objective": objective, **options})

    Ruled.__name__ = Ruled.__qualname__ = f"Ruled_{rule}_{objective}"  # where pickle looks for it
    globals()[Ruled.__name__] = Ruled
    return Ruled


# Every rule of the write; the default is the head itself. Of the objectives those that are not the rule's own.
RULED = {rule: HebbianSoftmax if rule == "sight" else _ruled(rule) for rule in RULES}
OBJECTIVES = {f"paper-{objective}": _ruled("paper", objective) for objective in ("softmax", "inner_product")}
RULED |= OBJECTIVES | {"sight-softmax": _ruled("sight", "softmax")}
MORE = {f"HebbianSoftmax-{name}": RULED[name] for name in ("centered", "paper", *OBJECTIVES)}
FLAT = {name: make for name, make in (HEADS | MORE).items() if issubclass(make, Softmax)}  # one [V, D] of rows
D, V = 5, 9


def batch(shape: Any = (12,), v: int = V, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Activations [*shape, D] and labels [*shape] below v."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, D, generator=g, dtype=torch.float64).to(dtype), torch.randint(v, shape, generator=g)


def drawn(head: nn.Module) -> nn.Module:
    """The same head with a bias that is not 0."""
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return head


def rows(head: nn.Module) -> torch.Tensor:
    """The rows of its classes, of one that has clusters those of the first."""
    return next(head.parameters())


def plain_logits(head: nn.Module, h: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    """Logits [..., V] of activations and the head's parameters, by torch alone; of clusters log p, as the head's."""
    if issubclass(type(head), Softmax):
        return F.linear(h, *parameters)
    named = dict(zip([name for name, _ in head.named_parameters()], parameters, strict=True))
    first = F.linear(h, named["first.weight"], named.get("first.bias")).log_softmax(-1)
    K = len(head.tails)
    parts = [first[..., : first.shape[-1] - K]]
    for k in range(K):
        h_k = h @ named[f"tails.{k}.projection"].t()
        own = F.linear(h_k, named[f"tails.{k}.softmax.weight"], named.get(f"tails.{k}.softmax.bias"))
        parts.append(own.log_softmax(-1) + first[..., first.shape[-1] - K + k, None])
    return torch.cat(parts, -1)


def step(head: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0, dtype: torch.dtype = torch.float64):
    """One training step; returns the loss."""
    optimizer.zero_grad()
    loss = head.loss(*batch(dtype=dtype, v=head.num_classes, seed=seed))
    loss.backward()
    optimizer.step()
    return loss.detach()


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two heads hold the same state bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sgd(head: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    """The plainest optimizer."""
    return torch.optim.SGD(head.parameters(), lr=lr)


def attached(make: Callable[..., Any], lr: float = 0.1, optimizer: Callable[..., Any] = sgd, **options: Any):
    """A head with a bias, and an optimizer that it is attached to."""
    head = drawn(make(D, V, dtype=torch.float64, **options))
    optimizer = optimizer(head, lr)
    head.attach(optimizer)
    return head, optimizer


def steps_of(head: nn.Module, optimizer: torch.optim.Optimizer, steps: int, loss: Callable[..., Any] | None = None):
    """Steps of training, each on a batch of its own."""
    for seed in range(steps):
        optimizer.zero_grad()
        h, y = batch(seed=seed)
        (head.loss(h, y) if loss is None else loss(h, y)).backward()
        optimizer.step()
