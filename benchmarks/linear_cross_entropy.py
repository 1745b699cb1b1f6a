"""The loss alone, forward and backward: which path is best at which size, dtype and torch version.

Ours (tiles of the vocabulary, logits made again in the backward pass) against plain `F.cross_entropy(F.linear(...))`
and, where torch has it, `F.linear_cross_entropy` in chunks of 128 tokens. Run alone on the machine:

    python benchmarks/linear_cross_entropy.py
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, paired, save
from torch import Tensor

from engram import functional

SIZES = [(1120, 33_278, 128), (1120, 1_000, 128), (1120, 7_530, 128), (64, 33_278, 128), (1120, 33_278, 512)]
TILES = [(1120, 256), (1120, 512), (1120, 1024), (560, 1024), (280, 2048)]


def call(loss: Callable[[Tensor, Tensor], Tensor], h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h, w = h.requires_grad_(), w.requires_grad_()
    return torch.autograd.grad(loss(h, w), (h, w))


def tiled(h: Tensor, w: Tensor, *, y: Tensor, tile: tuple[int, int] | None, dtype: torch.dtype | None) -> Tensor:
    usual = functional._CPU_TILE
    functional._CPU_TILE = tile or usual
    loss = functional.linear_cross_entropy(h, w, y, compute_dtype=dtype)
    # The backward pass asks for the tile again, and it must be the same one.
    h.register_hook(lambda _: setattr(functional, "_CPU_TILE", usual))  # type: ignore[no-untyped-call]
    return loss


def variants(h: Tensor, w: Tensor, y: Tensor, tiles: bool) -> dict[str, Callable[[], Any]]:
    paths: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"plain": lambda h, w: F.cross_entropy(F.linear(h, w), y)}
    if hasattr(F, "linear_cross_entropy"):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128)
        paths["torch"] = lambda h, w: F.linear_cross_entropy(h, w, y, options=chunks)
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        paths[f"tiled {name}"] = partial(tiled, y=y, tile=None, dtype=dtype)
        for tile in TILES if tiles else ():
            paths[f"tiled {name} {tile}"] = partial(tiled, y=y, tile=tile, dtype=dtype)
    return {name: partial(call, path, h, w) for name, path in paths.items()}


def main() -> None:
    options = arguments(__doc__ or "", "benchmarks/results/linear_cross_entropy.json", rounds=9)
    table = []
    for i, (n, v, d) in enumerate(SIZES):
        torch.manual_seed(0)
        h, w, y = torch.randn(n, d), torch.randn(v, d) / d**0.5, torch.randint(v, (n,))
        paths = variants(h, w, y, tiles=i == 0)
        exact = call(lambda h, w, y=y: F.cross_entropy(F.linear(h, w), y), h.double(), w.double())  # type: ignore[misc]
        seconds = paired(paths, options.rounds)
        for name, path in paths.items():
            error = max(((a - b).norm() / b.norm()).item() for a, b in zip(path(), exact, strict=True))
            best, speed = min(seconds[name]), min(seconds["plain"]) / min(seconds[name])
            row = {"N": n, "V": v, "D": d, "path": name, "best_seconds": best, "times_as_fast_as_plain": speed}
            table.append(row | {"gradient_error": error})
            print(f"N {n:5} V {v:6} D {d:4} {name:24} {1e3 * best:7.1f} ms  x{speed:.2f}  gradient error {error:.1e}")
    save(options.out, {"rounds": options.rounds, "table": table})


if __name__ == "__main__":
    main()
