"""The memories at WikiText-2's size, each beside the bare matrix products it cannot do without.

- The neural cache against `torch.mm` of the same scores, window 2,000 and 10,000: in blocks of 256 tokens, each with
  all pairs that it sees; and, stricter, of all tokens with one and the same window, which is as many scores but not
  the right ones, into memory that is there already.
- All 105 points of the paper's cache grid against one single evaluation.
- MbPA, one step, against its dense products alone, and against a loop with autograd over tokens.
- Peak memory of the cache over 200,000 tokens.

Run alone on the machine:

    python benchmarks/memory.py
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, in_subprocess, paired, peak_memory, ratios, save
from torch import Tensor

from firstsight.memory import CacheGrid, MbPA, NeuralCache
from firstsight.memory.store import CHUNK

V, D, K, WINDOW = 33_278, 128, 1024, 10_000
THETAS, SIZES = (0.1, 0.2, 0.3), (1000, 5000, 8000, 9000, 10_000)


def stream(tokens: int, classes: int = V) -> tuple[Tensor, Tensor]:
    """Activations, and labels as frequent as words are (Zipf)."""
    torch.manual_seed(0)
    share = 1 / torch.arange(1, classes + 1).double()
    return torch.randn(tokens, D), torch.multinomial(share, tokens, replacement=True)


def bench_cache(rounds: int) -> list[dict[str, Any]]:
    """A full memory scores 8,192 tokens: we, the scores alone, and the grid."""
    table = []
    h, y = stream(WINDOW + CHUNK)
    queries, labels = h[WINDOW:], y[WINDOW:]
    for window in (2000, WINDOW):
        cache, grid = NeuralCache(window), CacheGrid(THETAS, SIZES)
        cache.remember(h[:WINDOW], y[:WINDOW])
        grid.remember(h[:WINDOW], y[:WINDOW])
        keys, out = h[:window].t(), torch.empty(1024, window)

        def scores(keys: Tensor = keys, out: Tensor = out) -> None:
            for first in range(0, len(queries), len(out)):
                torch.mm(queries[first : first + len(out)], keys, out=out)

        def banded(window: int = window) -> None:
            for first in range(WINDOW, len(h), 256):
                torch.mm(h[first : first + 256], h[first - window : first + 255].t())

        variants: dict[str, Callable[[], object]] = {"torch.mm": banded, "torch.mm, one window": scores}
        variants["cache"] = partial(cache.nll, queries, labels)
        if window == WINDOW:
            variants["grid of 105"] = partial(grid.nll, queries, labels)
        seconds = paired(variants, rounds)
        row: dict[str, Any] = {"window": window, "tokens": len(labels)}
        row["cache_over_mm"] = ratios(seconds, "cache", "torch.mm")
        row["cache_over_mm_of_one_window"] = ratios(seconds, "cache", "torch.mm, one window")
        if window == WINDOW:
            row["grid_over_cache"] = ratios(seconds, "grid of 105", "cache")
        table.append(row)
        print(row)
    return table


def bench_mbpa(rounds: int, tokens: int = 1024) -> dict[str, Any]:
    """A full memory scores a block: we, the three products alone, and autograd for a few tokens."""
    h, y = stream(WINDOW + tokens)
    head = torch.nn.Linear(D, V)
    queries, labels = h[WINDOW:], y[WINDOW:]
    full = MbPA(WINDOW, K)
    full.remember(head, h[:WINDOW], y[:WINDOW])
    weight, keys, change = head.weight.detach(), h[: WINDOW + tokens - 1], torch.rand(tokens, WINDOW + tokens - 1)
    columns = 2048
    p, out, z = (torch.rand(rows, columns) for rows in (len(keys), tokens, tokens))

    def products() -> None:
        for first in range(0, V - columns + 1, columns):
            rows = weight[first : first + columns].t()
            torch.mm(keys, rows, out=p)
            torch.mm(change, p, out=out)
            torch.mm(queries, rows, out=z)
        rest = weight[V - V % columns :].t()
        torch.mm(change, torch.mm(keys, rest))
        torch.mm(queries, rest)

    def autograd(few: int = 4) -> None:
        for t in range(few):
            near = ((keys[t : t + WINDOW] - queries[t]) ** 2).sum(1).topk(K, largest=False)
            w = 1 / (1e-3 + near.values)
            rows = weight.clone().requires_grad_()
            logits = F.linear(keys[t : t + WINDOW][near.indices], rows, head.bias)
            loss = (w / w.sum() * F.cross_entropy(logits, y[t : t + WINDOW][near.indices], reduction="none")).sum()
            (gradient,) = torch.autograd.grad(loss, rows)
            with torch.no_grad():
                F.cross_entropy(F.linear(queries[t], rows - 0.3 * gradient, head.bias), labels[t])

    mbpa = partial(full.nll, head, queries, labels)
    seconds = paired({"products": products, "mbpa": mbpa, "autograd": autograd}, rounds)
    per_token = {"mbpa": [s / tokens for s in seconds["mbpa"]], "autograd": [s / 4 for s in seconds["autograd"]]}
    row = {
        "tokens": tokens,
        "K": K,
        "window": WINDOW,
        "products_over_mbpa": ratios(seconds, "products", "mbpa"),
        "autograd_over_mbpa": ratios(per_token, "autograd", "mbpa"),
        "mbpa_tokens_per_second": tokens / min(seconds["mbpa"]),
    }
    print(row)
    return row


def peak(tokens: int = 200_000) -> int:
    """Bytes that the cache needs at its peak beyond the stream itself."""
    h, y = stream(tokens)
    return peak_memory(lambda: NeuralCache(WINDOW).nll(h, y))


def main() -> None:
    if sys.argv[1:] == ["--peak"]:
        print(peak())
        return
    options = arguments(__doc__ or "", "benchmarks/results/memory.json", rounds=9)
    found = {
        "V": V,
        "D": D,
        "cache": bench_cache(options.rounds),
        "mbpa": bench_mbpa(max(3, options.rounds // 3)),
        "cache_peak_bytes_200k": int(in_subprocess(__file__, "--peak")),
    }
    save(options.out, found)


if __name__ == "__main__":
    main()
