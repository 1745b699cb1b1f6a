"""Ten million classes on one machine: steps, memory and the best classes, beside 100,000.

- A step of the sampled head, sparse, with Adagrad and the write, on 1,120 tokens: turn by turn at both sizes.
- Memory: what the process of the large head grows by at its peak, from before the head is made to after its steps,
  beside its weights and the optimizer's state.
- `topk(h, 10)` of 64 activations beside its bare products, in the same tiles.

Classes are drawn as words are, the v-th with a probability in proportion to 1 / (v + 10). Needs 7 GB of memory:

    python benchmarks/scale.py
    python benchmarks/scale.py --classes 1000000 --rounds 20 --out /tmp/small.json
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, in_subprocess, paired, print_and_save, ratios, start_peak
from torch import Tensor

import firstsight
from firstsight.functional.tiling import largest
from firstsight.lab.system.machine import resident

D, TOKENS, SAMPLES, SMALL, QUERIES, K = 64, 1120, 8192, 100_000, 64, 10


def labels(num_classes: int, count: int, random: torch.Generator) -> Tensor:
    """By the rank's inverse: log-uniform between 10 and V + 10."""
    share = torch.rand(count, generator=random, dtype=torch.float64)
    return ((num_classes + 10) / 10) ** share * 10 - 10


def stepping(num_classes: int) -> tuple[Callable[[], None], firstsight.HebbianSampledSoftmax, torch.optim.Optimizer]:
    """What takes a step of a fresh head, the head, and its optimizer."""
    torch.manual_seed(0)
    head = firstsight.HebbianSampledSoftmax(D, num_classes, samples=SAMPLES, sparse=True)
    optimizer = torch.optim.Adagrad(head.parameters(), lr=0.05)
    head.attach(optimizer)
    random = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(TOKENS, D, generator=random),
            labels(num_classes, TOKENS, random).long().clamp(max=num_classes - 1),
        )
        for _ in range(16)
    ]
    taken = 0

    def step() -> None:
        nonlocal taken
        hidden, target = batches[taken % len(batches)]
        taken += 1
        head.loss(hidden, target).backward()  # type: ignore[no-untyped-call]
        firstsight.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, head, optimizer


def memory(num_classes: int) -> dict[str, float]:
    """In a process of its own: bytes at the peak beside those of weights and state."""
    small, *_ = stepping(1000)
    small()  # what torch loads and keeps for its own
    before = start_peak()
    step, head, optimizer = stepping(num_classes)
    for _ in range(20):
        step()
    peak = resident("VmHWM") - before
    state = [v for of in optimizer.state.values() for v in of.values() if isinstance(v, Tensor)]
    held = sum(x.nbytes for x in [*head.parameters(), *state])
    return {"peak_bytes": peak, "weights_and_state_bytes": held, "ratio": peak / held}


def bare(weight: Tensor, bias: Tensor, hidden: Tensor) -> Callable[[], None]:
    """The products of ``topk`` alone, with the bias, into the same place."""
    width = largest._HELD["cpu"] // len(hidden)
    out = torch.empty(len(hidden), width)

    def products() -> None:
        for at in range(0, len(weight), width):
            end = min(at + width, len(weight))
            place = out.view(-1)[: len(hidden) * (end - at)].view(len(hidden), -1)
            torch.addmm(bias[at:end], hidden, weight[at:end].t(), out=place)

    return products


def main() -> None:
    """Measure all, print it and write it."""
    given = arguments(__doc__, "benchmarks/results/scale.json", classes=10_000_000, rounds=40)
    in_its_own = in_subprocess(__file__, "memory", str(given.classes))
    found: dict[str, Any] = {"classes": given.classes, "small": SMALL, "memory": json.loads(in_its_own)}
    (small, *_), (large, head, _) = stepping(SMALL), stepping(given.classes)
    seconds = paired({"large": large, "small": small}, given.rounds)
    found["step"] = {"ms": {name: 1e3 * statistics.median(of) for name, of in seconds.items()}}
    found["step"] |= ratios(seconds, "large", "small")
    hidden, (weight, bias) = torch.randn(QUERIES, D), (part.detach() for part in head.parameters())
    seconds = paired(
        {"topk": lambda: head.topk(hidden, K), "bare": bare(weight, bias, hidden)}, max(4, given.rounds // 8)
    )
    found["topk"] = {"ms": {name: 1e3 * statistics.median(of) for name, of in seconds.items()}}
    found["topk"] |= {"share_of_the_products_rate": 1 / ratios(seconds, "topk", "bare")["median"]}
    print_and_save(given.out, found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(int(sys.argv[2]))))
    else:
        main()
