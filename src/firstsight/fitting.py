"""Training a layer on vectors that are all there: the one loop of the estimator and of the trial.

Shapes: N examples, B of a batch, D features, V classes.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from firstsight.heads.write import HebbianWrite

LEAST_STEPS = 300  # of a training, for the estimator and the trial: where examples are few it takes more epochs
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of activations [B, D], targets [B] and which examples they are [B]: the loss, a scalar."""


def fit_head(
    head: nn.Module,
    hidden: Tensor,
    target: Tensor,
    *,
    rate: float,
    epochs: int,
    batch_size: int = 256,
    least_steps: int = 0,
    seed: int = 0,
    loss: Loss | None = None,
    balanced: bool = False,
    body: nn.Module | None = None,
    body_rate: float = 1e-3,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Train a layer, and a network below it, by Adam with a rate that falls linearly to 0; the layer writes if it can.

    Args:
        head: with ``loss(h, y)``; its parameters and those of ``body`` are trained, and left in evaluation mode.
        hidden: [N, D] float, what goes into ``body``, or into the layer where there is none.
        target: [N] int64 in [0, V).
        rate, body_rate: what the rates of the layer and of ``body`` start from.
        epochs: passes over the N examples; more of them where that would be fewer steps than ``least_steps``.
        batch_size: B at most.
        seed: of the order of examples; dropout in ``body`` takes the global generator.
        loss: in place of ``head.loss(h, y)``.
        balanced: draw each example's class uniformly, then one of its examples, in place of all in turn.
        progress: called with the steps done and all of them.

    Returns:
        The number of steps.
    """
    steps_of_epoch = -(-len(target) // batch_size)
    steps = max(epochs * steps_of_epoch, least_steps)
    groups = [{"params": list(head.parameters()), "lr": rate}]
    if body is not None:
        groups.append({"params": list(body.train().parameters()), "lr": body_rate})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    handle = head.train().attach(optimizer, group=False) if isinstance(head, HebbianWrite) else None
    batches = _batches(target, batch_size, seed, balanced)
    try:
        for step in range(steps):
            batch_B = next(batches)
            h_BD = hidden[batch_B] if body is None else body(hidden[batch_B])
            y_B = target[batch_B]
            optimizer.zero_grad()
            value = head.loss(h_BD, y_B) if loss is None else loss(h_BD, y_B, batch_B)  # type: ignore[operator]
            value.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    finally:
        if handle is not None:
            handle.remove()
        head.eval()
        if body is not None:
            body.eval()
    return steps


def _batches(target: Tensor, batch_size: int, seed: int, balanced: bool) -> Iterator[Tensor]:
    """Which examples each batch is made of, [B], without end."""
    g, N = torch.Generator().manual_seed(seed), len(target)
    weight_N = 1 / torch.bincount(target.cpu()).double()[target.cpu()] if balanced else None
    while True:
        if weight_N is None:
            order_N = torch.randperm(N, generator=g)
        else:
            order_N = torch.multinomial(weight_N, N, replacement=True, generator=g)
        yield from order_N.to(target.device).split(batch_size)  # type: ignore[no-untyped-call]
