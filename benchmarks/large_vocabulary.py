"""The sampled and the adaptive softmax against the full one: a whole step of a layer of WikiText-103's size.

One step is loss, backward, RMSProp and the write: V = 267,735, D = 512, 2,240 tokens; 8,192 samples; clusters that
begin at V / 15 and V / 5, 128 and 32 features wide. About five minutes on one core:

    python benchmarks/large_vocabulary.py --rounds 3
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import arguments, paired, print_and_save, ratios

from firstsight import HebbianAdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax

V, D, TOKENS = 267_735, 512, 2240
RESULT = "benchmarks/results/large_vocabulary.json"
LAYERS: dict[str, Callable[[], Any]] = {
    "full": partial(HebbianSoftmax, D, V),
    "sampled": partial(HebbianSampledSoftmax, D, V),
    "adaptive": partial(HebbianAdaptiveSoftmax, D, V),
}


def make_step(name: str) -> tuple[Callable[[], float], int]:
    """A step that goes on training one layer, and how many parameters that has."""
    torch.manual_seed(0)
    head = LAYERS[name]()
    optimizer = torch.optim.RMSprop(head.parameters(), lr=1e-3)
    head.attach(optimizer)
    frequency_V = 1 / torch.arange(1, V + 1, dtype=torch.float64)
    hidden = torch.randn(TOKENS, D, requires_grad=True)

    def step() -> float:
        target = torch.multinomial(frequency_V, TOKENS, replacement=True)
        loss = head.loss(hidden, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        hidden.grad = None
        return float(loss.item())

    return step, sum(parameter.numel() for parameter in head.parameters())


def main() -> None:
    options = arguments(__doc__ or "", RESULT, rounds=3)
    made = {name: make_step(name) for name in LAYERS}
    seconds = paired({name: step for name, (step, _) in made.items()}, options.rounds)
    found = {
        "sizes": {"V": V, "D": D, "tokens": TOKENS, "samples": 8192, "rounds": options.rounds},
        "parameters": {name: size for name, (_, size) in made.items()},
        "times_as_fast_as_full": {name: ratios(seconds, "full", name) for name in ("sampled", "adaptive")},
        "best_seconds": {name: min(times) for name, times in seconds.items()},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
