"""The training step: its speed and peak memory against the plain path, and what the write adds.

One step is forward, loss, backward, clipping and RMSProp on the `small` recipe: V = 33,278, N = 16 x 70, D = 128.
The plain path is the same step on `F.cross_entropy(head(h), y)`. Run alone on the machine:

    python benchmarks/train_step.py
"""

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import arguments, in_subprocess, paired, peak_memory, print_and_save, ratios
from torch import Tensor

from firstsight.functional import hebbian_update_
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_model, build_optimizer

V = 33_278
RESULT = "benchmarks/results/train_step.json"


def make_step(path: str, head: str, attached: bool) -> Callable[[], float]:
    """A step that goes on training one model; ``path`` is "plain", "fp32" or "bf16"."""
    torch.manual_seed(0)
    config = recipe("small").replace(head=head)
    model = build_model(V, config).train()
    optimizer = build_optimizer(model, config)
    handle = model.head.attach(optimizer)
    if not attached:
        handle.remove()
    # Words by Zipf's law, as in text: the write depends on how many different ones a batch holds.
    frequency_V = 1 / torch.arange(1, V + 1, dtype=torch.float64)

    def loss_of(x_BS: Tensor, y_BS: Tensor) -> Tensor:
        hidden, _ = model(x_BS)
        if path == "plain":
            return F.cross_entropy(model.head(hidden).view(-1, V), y_BS.view(-1))
        loss: Tensor = model.head.loss(hidden, y_BS)
        return loss

    def step() -> float:
        x_BS, y_BS = torch.multinomial(frequency_V, 2240, replacement=True).view(2, config.batch, config.length)
        with torch.autocast("cpu", torch.bfloat16, enabled=path == "bf16"):
            loss = loss_of(x_BS, y_BS)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def make_write(num_classes: int) -> Callable[[], None]:
    """A write of 1,120 tokens into ``num_classes`` rows, other tokens each time, the rate never 0."""
    weight, counts = torch.randn(num_classes, 128), torch.ones(num_classes, dtype=torch.int64)
    hidden = torch.randn(1120, 128)

    def write() -> None:
        target = torch.randint(10_000, (1120,)) * (num_classes // 10_000)
        for _ in range(20):
            hebbian_update_(weight, counts, hidden, target, T=1_000_000, gamma=0.01)

    return write


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--peak":
        print(peak_memory(make_step(sys.argv[2], "softmax", attached=False)))
        return
    options = arguments(__doc__ or "", RESULT, rounds=25)
    paths = {path: make_step(path, "softmax", attached=False) for path in ("plain", "fp32", "bf16")}
    seconds = paired(paths, options.rounds)
    speed = {path: ratios(seconds, "plain", path) for path in ("fp32", "bf16")}
    write = {}
    for path in ("fp32", "bf16"):
        pair = {str(attached): make_step(path, "hebbian", attached) for attached in (True, False)}
        write[path] = ratios(paired(pair, options.rounds), "True", "False")
    by_size = {str(size): make_write(size) for size in (10_000, 1_000_000)}
    growth = ratios(paired(by_size, options.rounds), "1000000", "10000")
    peak = {path: int(in_subprocess(__file__, "--peak", path)) for path in ("plain", "fp32", "bf16")}
    found = {
        "sizes": {"V": V, "tokens": 1120, "D": 128, "hidden": 256, "rounds": options.rounds},
        "times_as_fast_as_plain": speed,
        "step_with_write_over_without": write,
        "write_into_1000000_rows_over_10000": growth,
        "peak_bytes": peak,
        "peak_share_of_plain": {path: peak[path] / peak["plain"] for path in ("fp32", "bf16")},
        "best_seconds": {name: min(times) for name, times in seconds.items()},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
