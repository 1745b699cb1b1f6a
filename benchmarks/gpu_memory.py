"""The memories on a CUDA device at the paper's size. `make gpu` runs it last.

PYTHONPATH=src python benchmarks/gpu_memory.py --out gpu_memory.json
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import arguments, paired, save

from firstsight.memory import MbPA, NeuralCache

V, D, K, WINDOW, TOKENS = 267_735, 512, 1024, 10_000, 4096


def matrix_rate(rounds: int, size: int = 8192) -> float:
    """Operations a second of one large bf16 product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(paired({"mm": lambda: a @ b}, rounds)["mm"])


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu_memory.py needs a CUDA device, and torch sees none here")
    options = arguments(__doc__ or "", "benchmarks/results/gpu_memory.json", rounds=5)
    torch.manual_seed(0)
    h = torch.randn(WINDOW + TOKENS, D, device="cuda")
    y = torch.multinomial(1 / torch.arange(1, V + 1).double(), len(h), replacement=True).cuda()
    head = torch.nn.Linear(D, V).cuda()
    cache = NeuralCache(WINDOW)
    cache.remember(h[:WINDOW], y[:WINDOW])
    found: dict[str, Any] = {"V": V, "D": D, "K": K, "window": WINDOW, "bf16_rate": matrix_rate(options.rounds)}
    with torch.autocast("cuda", torch.bfloat16):
        variants: dict[str, Callable[[], object]] = {"cache": partial(cache.nll, h[WINDOW:], y[WINDOW:])}
        for block in (1024, 2048, 4096):
            mbpa = MbPA(WINDOW, K, block=block)
            mbpa.remember(head, h[:WINDOW], y[:WINDOW])
            variants[f"mbpa, block {block}"] = partial(mbpa.nll, head, h[WINDOW:], y[WINDOW:])
        seconds = paired(variants, options.rounds)
    for name, times in seconds.items():
        row = {"tokens_per_second": TOKENS / min(times)}
        if name != "cache":
            block = int(name.split()[-1])
            # A block's weights times the distributions of all that it sees; these; and its own logits.
            products = 2 * V * ((WINDOW + block - 1) * (block + D) + block * D) * (TOKENS / block)
            row["share_of_bf16_rate"] = products / min(times) / found["bf16_rate"]
        found[name] = row
        print(name, row)
    save(options.out, found)


if __name__ == "__main__":
    main()
