"""The loss alone, forward and backward: which path is best at which size, dtype and torch version.

Ours in one pass and in two, against plain `F.cross_entropy(F.linear(...))`, where torch has it
`F.linear_cross_entropy` in chunks of 128 tokens, and the three matrix products alone that each path needs at least,
into memory that is there already: their time over that of a path is its share of the products' rate. Run alone on the
machine:

    python benchmarks/linear_cross_entropy.py
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, paired, ratios, save
from torch import Tensor

from firstsight.functional import linear_cross_entropy

SIZES = [(1120, 33_278, 128), (1120, 1_000, 128), (1120, 7_530, 128), (64, 33_278, 128), (560, 33_278, 512)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Loss = Callable[[Tensor, Tensor], Tensor]


def gradients(loss: Loss, h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    h, w = h.requires_grad_(), w.requires_grad_()
    return torch.autograd.grad(loss(h, w), (h, w))


def plain(h: Tensor, w: Tensor, *, y: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, w), y)


def one_pass(h: Tensor, w: Tensor, *, y: Tensor, dtype: torch.dtype) -> Tensor:
    return linear_cross_entropy(h, w, y, compute_dtype=dtype)


def two_passes(h: Tensor, w: Tensor, *, y: Tensor, dtype: torch.dtype) -> Tensor:
    return linear_cross_entropy(h, w, y, compute_dtype=dtype, reduction="none").mean()


def products(h: Tensor, w: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Logits and both gradients, of powers that are all different, without anything between."""
    h_ND, w_VD = h.detach().to(dtype), w.detach().to(dtype)
    p_NV = torch.rand(len(h), len(w)).to(dtype)
    z_NV, gh_ND, gw_VD = (torch.empty_like(t) for t in (p_NV, h_ND, w_VD))

    def run() -> None:
        torch.mm(h_ND, w_VD.t(), out=z_NV)
        torch.mm(p_NV, w_VD, out=gh_ND)
        torch.mm(p_NV.t(), h_ND, out=gw_VD)

    return run


def losses(y: Tensor) -> dict[str, Loss]:
    found: dict[str, Loss] = {"plain": partial(plain, y=y)}
    if hasattr(F, "linear_cross_entropy"):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128)
        found["torch"] = lambda h, w: F.linear_cross_entropy(h, w, y, options=chunks)
    for name, dtype in DTYPES.items():
        found[f"one pass {name}"] = partial(one_pass, y=y, dtype=dtype)
        found[f"two passes {name}"] = partial(two_passes, y=y, dtype=dtype)
    return found


def main() -> None:
    options = arguments(__doc__ or "", "benchmarks/results/linear_cross_entropy.json", rounds=9)
    table: list[dict[str, Any]] = []
    for n, v, d in SIZES:
        torch.manual_seed(0)
        h, w, y = torch.randn(n, d), torch.randn(v, d) / d**0.5, torch.randint(v, (n,))
        exact = gradients(partial(plain, y=y), h.double(), w.double())
        paths = {name: partial(gradients, loss, h, w) for name, loss in losses(y).items()}
        bare = {f"products {name}": products(h, w, dtype) for name, dtype in DTYPES.items()}
        seconds = paired(bare | paths, options.rounds)
        for name, path in paths.items():
            error = max(((a - b).norm() / b.norm()).item() for a, b in zip(path(), exact, strict=True))
            best, speed = min(seconds[name]), min(seconds["plain"]) / min(seconds[name])
            share = ratios(seconds, "products bf16" if "bf16" in name else "products fp32", name)
            row = {"N": n, "V": v, "D": d, "path": name, "best_seconds": best, "times_as_fast_as_plain": speed}
            table.append(row | {"share_of_products_rate": share, "gradient_error": error})
            print(
                f"N {n:5} V {v:6} D {d:4} {name:16} {1e3 * best:7.1f} ms  x{speed:.2f}  "
                f"products {share['median']:.2f}  gradient error {error:.1e}"
            )
    save(options.out, {"rounds": options.rounds, "table": table})


if __name__ == "__main__":
    main()
