"""The loss, the write and the paper's training step on a CUDA device. `make gpu` runs it after the GPU tests.

PYTHONPATH=src python benchmarks/gpu.py --out gpu.json
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, paired, ratios, save

from firstsight.functional import hebbian_update_, linear_cross_entropy
from firstsight.functional.tiling import sizes
from firstsight.heads import HebbianSoftmax
from firstsight.lab.lm.lstm import LanguageModel, head_width
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_optimizer

V, N, D = 267_735, 6400, 512  # a sub-batch of the paper: 64 sequences of 100 tokens
ROWS = [512, 1024, 2048, 4096]


def loss_paths(rounds: int) -> dict[str, Any]:
    h = torch.randn(N, D, device="cuda", requires_grad=True)
    w = (torch.randn(V, D, device="cuda") / D**0.5).requires_grad_()
    y = torch.randint(V, (N,), device="cuda")

    def plain() -> object:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(F.linear(h, w), y)
        return torch.autograd.grad(loss, (h, w))

    def ours(rows: int) -> object:
        sizes.ONE_PASS_TILE["cuda"] = (rows, 65536)
        return torch.autograd.grad(linear_cross_entropy(h, w, y, compute_dtype=torch.bfloat16), (h, w))

    paths: dict[str, Callable[[], object]] = {"plain": plain}
    paths |= {f"one pass, {rows} rows": partial(ours, rows) for rows in ROWS}
    seconds = paired(paths, rounds)
    return {
        name: {"best_seconds": min(seconds[name]), "plain_over_it": ratios(seconds, "plain", name), "peak": peak(path)}
        for name, path in paths.items()
    }


def peak(path: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    path()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def write_growth(rounds: int) -> dict[str, float]:
    hidden = torch.randn(51_200, D, device="cuda")

    def write(weight: torch.Tensor, counts: torch.Tensor) -> None:
        target = torch.randint(10_000, (51_200,), device="cuda") * (len(weight) // 10_000)
        hebbian_update_(weight, counts, hidden, target, T=10**9, gamma=0.01)

    sizes = {
        str(v): partial(write, torch.randn(v, D, device="cuda"), torch.ones(v, dtype=torch.int64, device="cuda"))
        for v in (10_000, 1_000_000)
    }
    return ratios(paired(sizes, rounds), "1000000", "10000")


def paper_step(rounds: int) -> dict[str, Any]:
    config = recipe("paper")

    def make(attached: bool) -> Callable[[], object]:
        head = HebbianSoftmax(head_width(config), V, bias=False)
        model = LanguageModel(V, config, head).cuda().train()
        optimizer = build_optimizer(model, config)
        if attached:
            head.attach(optimizer)

        def step() -> float:
            x, y = torch.randint(V, (2, 64, config.length), device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                loss = head.loss(model(x)[0], y)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    seconds = paired({"with": make(True), "without": make(False)}, rounds)
    rate = 64 * config.length / min(seconds["with"])
    return {"tokens_per_second": rate, "with_write_over_without": ratios(seconds, "with", "without")}


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a CUDA device, and torch sees none here")
    options = arguments(__doc__ or "", "benchmarks/results/gpu.json", rounds=10)
    found = {"sizes": {"V": V, "N": N, "D": D}, "loss": loss_paths(options.rounds)}
    found |= {"write_into_1000000_rows_over_10000": write_growth(options.rounds)}
    found |= {"paper_step_64_sequences": paper_step(options.rounds)}
    save(options.out, found)


if __name__ == "__main__":
    main()
