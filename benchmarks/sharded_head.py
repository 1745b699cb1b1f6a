"""A head whose classes are shared out over processes: bytes given to collectives, and seconds, of a training step.

Beside it a whole head under ``DistributedDataParallel``. Forks of one thread each, by gloo:

    python benchmarks/sharded_head.py --ranks 2
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from common import arguments, print_and_save
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import firstsight

D, TOKENS, STEPS = 32, 64, 5
CLASSES = 10_000, 1_000_000
HEADS: dict[str, Callable[[int], nn.Module]] = {
    "HebbianShardedSoftmax": lambda V: firstsight.HebbianShardedSoftmax(D, V),
    "HebbianShardedSoftmax, samples=1024, sparse=True": lambda V: firstsight.HebbianShardedSoftmax(
        D, V, samples=1024, sparse=True
    ),
    "HebbianSoftmax under DDP": lambda V: firstsight.HebbianSoftmax(D, V),
}
_COLLECTIVES = "all_gather", "all_reduce", "reduce_scatter", "all_to_all_single"


class Model(nn.Module):
    """A small body and the head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(D, D), head

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss."""
        loss: torch.Tensor = self.head.loss(self.body(x), y)  # type: ignore[operator]
        return loss


def counting(sent: list[int]) -> None:
    """Let the collectives of torch.distributed say how many bytes they are given. (DDP's own go by another way.)"""

    def counted(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            given = args[0] if name == "all_reduce" else args[1]
            sent.append(sum(x.numel() * x.element_size() for x in (given if isinstance(given, list) else [given])))
            return real(*args, **options)

        return call

    for name in _COLLECTIVES:
        setattr(dist, name, counted(getattr(dist, name), name))


def work(rank: int, ranks: int, folder: str) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    found, sent = {}, list[int]()
    counting(sent)
    for V in CLASSES:
        for name, make in HEADS.items():
            model = Model(make(V))
            firstsight.prepare_ddp(model)
            wrapped = DistributedDataParallel(model)
            optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
            model.head.attach(optimizer)  # type: ignore[operator]
            seconds, bytes_ = [], []
            for _ in range(STEPS):
                sent.clear()
                start = time.perf_counter()
                optimizer.zero_grad()
                wrapped(torch.randn(TOKENS, D), torch.randint(10_000, (TOKENS,))).backward()
                optimizer.step()
                seconds.append(time.perf_counter() - start)
                bytes_.append(sum(sent))
            averaged = [p for name, p in model.named_parameters() if name not in wrapped.parameters_to_ignore]
            found[f"{name}, V={V}"] = {
                "rows": len(model.head.weight),  # type: ignore[arg-type]
                "bytes_of_the_head": median(bytes_),
                "bytes_of_gradients_in_ddp": sum(p.numel() * p.element_size() for p in averaged),
                "seconds": round(median(seconds[1:]), 4),
            }
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    del wrapped  # as the last to hold the group it might wait for ever
    dist.destroy_process_group()


def main() -> None:
    options = arguments(__doc__ or "", "benchmarks/results/sharded_head.json", ranks=2)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (options.ranks, folder), nprocs=options.ranks)  # type: ignore[attr-defined,no-untyped-call]
        found = torch.load(Path(folder) / "found.pt", weights_only=True)
    print_and_save(options.out, {"D": D, "tokens of a process": TOKENS, "processes": options.ranks, **found})


if __name__ == "__main__":
    main()
