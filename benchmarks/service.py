"""What the loss's options add to it, and what one write in service costs.

The loss and its gradients at V = 33,278, N = 1,120, D = 128, with each option against without, turn by turn. A write of
one example of a new class at V = 100,000, D = 384, on a layer with clusters of related rows: the first one after
training, which looks at the whole layer, and those that follow. Run alone on the machine:

    python benchmarks/service.py
"""

import statistics
import time
from collections.abc import Callable

import torch
from common import arguments, paired, print_and_save, ratios

from firstsight import HebbianSoftmax

RESULT = "benchmarks/results/service.json"


def make_loss(**options: object) -> Callable[[], None]:
    """Loss and backward pass of a head."""
    torch.manual_seed(0)
    head = HebbianSoftmax(128, 33_278)
    hidden, target = torch.randn(1120, 128, requires_grad=True), torch.randint(33_278, (1120,))

    def call() -> None:
        head.loss(hidden, target, **options).backward()  # type: ignore[arg-type, no-untyped-call]
        head.zero_grad()

    return call


def service(num_classes: int, width: int, writes: int) -> dict[str, float]:
    """Seconds of the first write of a new class, and the quartiles of those after it."""
    torch.manual_seed(0)
    centres = torch.randn(num_classes // 50, width)
    of_class = centres[torch.arange(num_classes) % len(centres)] + 0.7 * torch.randn(num_classes, width)
    head = HebbianSoftmax(width, num_classes)
    with torch.no_grad():
        head.weight.copy_(3 * of_class / width**0.5)
        head.counts.add_(torch.randint(1, 50, (num_classes,)))
    with head.looking():  # the moments of training
        for y in torch.randint(num_classes, (40, 500)):
            head.nll(of_class[y] + 0.5 * torch.randn(500, width), y)
    seconds = []
    for _ in range(writes):
        head.add_classes(1)
        x = centres[torch.randint(len(centres), (1,))] + 0.7 * torch.randn(1, width)
        start = time.perf_counter()
        head.write(x, torch.tensor([head.num_classes - 1]))
        seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds[1:], n=4)
    return {"first": seconds[0], "median": median, "quartile_1": low, "quartile_3": high}


def main() -> None:
    """Both."""
    options = arguments(__doc__ or "", RESULT, rounds=40, writes=60)
    counts = torch.randint(100, (33_278,))
    variants = {
        "plain": make_loss(),
        "weight": make_loss(weight=torch.rand(33_278)),
        "label_smoothing": make_loss(label_smoothing=0.1),
        "logit_adjustment": make_loss(logit_adjustment=counts),
    }
    seconds = paired(variants, options.rounds)
    found = {
        "loss_over_plain": {name: ratios(seconds, name, "plain") for name in variants if name != "plain"},
        "write_in_service_seconds": {str(V): service(V, 384, options.writes) for V in (1_000, 100_000)},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
