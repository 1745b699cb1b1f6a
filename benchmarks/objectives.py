"""What a write on another inner objective costs: a whole step of the output layer against that with L2.

One step is loss, backward, RMSProp and the write: V = 33,278, D = 128, 1,120 tokens by Zipf's law, the paper's rule.
"every class": all are still written, so that softmax asks for the probability of each example; "epoch": T = 500, with
the counts of an epoch of WikiText-2, so that it asks for those of rarer words alone. About a minute on one core:

    python benchmarks/objectives.py --rounds 15
"""

from collections.abc import Callable

import torch
from common import arguments, paired, print_and_save, ratios

from firstsight import HebbianSoftmax
from firstsight.functional.inner_step import Objective

V, D, TOKENS, EPOCH = 33_278, 128, 1120, 2_088_628
RESULT = "benchmarks/results/objectives.json"


def make_step(objective: Objective, counts: str) -> Callable[[], float]:
    """A step that goes on training one layer."""
    torch.manual_seed(0)
    frequency_V = 1 / torch.arange(1, V + 1, dtype=torch.float64)
    frequency_V /= frequency_V.sum()
    head = HebbianSoftmax(D, V, 500 if counts == "epoch" else 10**9, 0.01, rule="paper", objective=objective)
    if counts == "epoch":
        head.set_counts((EPOCH * frequency_V).long())
    optimizer = torch.optim.RMSprop(head.parameters(), lr=1e-3)
    head.attach(optimizer)
    hidden = torch.randn(TOKENS, D)

    def step() -> float:
        loss = head.loss(hidden, torch.multinomial(frequency_V, TOKENS, replacement=True))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    options = arguments(__doc__ or "", RESULT, rounds=15)
    found: dict[str, object] = {"sizes": {"V": V, "D": D, "tokens": TOKENS, "rounds": options.rounds}}
    for counts in ("every class", "epoch"):
        objectives: tuple[Objective, ...] = ("l2", "softmax", "inner_product")
        steps: dict[str, Callable[[], float]] = {name: make_step(name, counts) for name in objectives}
        seconds = paired(steps, options.rounds)
        for objective in ("softmax", "inner_product"):
            found[f"step_of_{objective}_over_l2, {counts}"] = ratios(seconds, objective, "l2")
        found[f"best_seconds, {counts}"] = {name: min(times) for name, times in seconds.items()}
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
