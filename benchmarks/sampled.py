"""The sampled softmax against the full one: a whole step of the output layer at the size of WikiText-103.

One step is loss, backward, RMSProp and the write: V = 267,735, D = 512, 2,240 tokens, 8,192 samples. About five
minutes on one core:

    python benchmarks/sampled.py --rounds 3
"""

from collections.abc import Callable

import torch
from common import arguments, paired, print_and_save, ratios

from firstsight import HebbianSampledSoftmax, HebbianSoftmax

V, D, TOKENS = 267_735, 512, 2240
RESULT = "benchmarks/results/sampled.json"


def make_step(sampled: bool) -> Callable[[], float]:
    """A step that goes on training one layer."""
    torch.manual_seed(0)
    head = HebbianSampledSoftmax(D, V) if sampled else HebbianSoftmax(D, V)
    optimizer = torch.optim.RMSprop(head.parameters(), lr=1e-3)
    head.attach(optimizer)
    frequency_V = 1 / torch.arange(1, V + 1, dtype=torch.float64)
    hidden = torch.randn(TOKENS, D)

    def step() -> float:
        target = torch.multinomial(frequency_V, TOKENS, replacement=True)
        loss = head.loss(hidden, target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    options = arguments(__doc__ or "", RESULT, rounds=3)
    seconds = paired({"sampled": make_step(True), "full": make_step(False)}, options.rounds)
    found = {
        "sizes": {"V": V, "D": D, "tokens": TOKENS, "samples": 8192, "rounds": options.rounds},
        "times_as_fast_as_full": ratios(seconds, "full", "sampled"),
        "best_seconds": {name: min(times) for name, times in seconds.items()},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
