"""Data parallel through Lightning Fabric and torch.distributed, in the processes that ``torchrun`` started."""

import atexit
import gc
import inspect
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from firstsight.errors import InputError
from firstsight.lab.system import job
from firstsight.lab.system.devices import AUTO, find_device
from firstsight.lab.system.progress import console
from firstsight.lab.system.ranks import ALONE, Ranks


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.number = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], *[None] * ctx.number


def reach(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The loss, from which a backward pass comes by every parameter: what it does not depend on gets no gradient there.

    DDP sums a gradient once the backward pass has been at its parameter, and waits for ever for one that this rank's
    part of the batch has no use for. So it counts as 0.
    """
    return cast(Tensor, _Reach.apply(loss, *parameters))  # type: ignore[no-untyped-call]


def _leave() -> None:
    """Before Python ends: gloo's threads, still there when it has ended, abort the process now and then.

    What DDP made goes first: as the last to hold the group it would wait for gloo's thread with the GIL in its hands.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def start(precision: Any, device: str = AUTO) -> tuple[Fabric, Ranks]:
    """Fabric for this process, and its place among those that ``torchrun`` started with it; alone without.

    gloo on CPUs; NCCL on GPUs, a process each.

    Args:
        precision: as Fabric names it.
        device: as ``find_device`` takes it; of several processes auto, cpu or cuda.

    Raises:
        InputError: the device is not there; several processes, but not by torchrun, or not as many on each machine, or
            more than GPUs.
    """
    place = find_device(device)
    if job.world_size() == 1:
        devices: Any = 1 if place.index is None else [place.index]
        return Fabric(accelerator=place.type, devices=devices, precision=precision), ALONE
    job.check_launcher()
    local, machines = job.local_world_size(), job.world_size() // job.local_world_size()
    if device not in (AUTO, "cpu", "cuda"):
        raise InputError(
            f"device is {device!r}, and there are {job.world_size()} processes; expected auto, cpu or cuda: on GPUs "
            "each has one of its own. Which of them are used, CUDA_VISIBLE_DEVICES says."
        )
    cuda = place.type == "cuda"
    if cuda and local > torch.cuda.device_count():
        raise InputError(
            f"{local} processes on this machine, and {torch.cuda.device_count()} GPUs; expected one each. Give "
            f"torchrun --nproc-per-node {torch.cuda.device_count()}."
        )
    # No buffers from rank 0 at each step: those of a head are the same everywhere, and as large as its weights. (torch
    # 2.13 has a new name for it, and warns of the old one.)
    names = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    strategy = DDPStrategy(gradient_as_bucket_view=True, **options)
    accelerator = "cuda" if cuda else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=local, num_nodes=machines, strategy=strategy, precision=precision)
    job.introduce()
    if not dist.is_initialized():  # here, and not by Fabric, so that a restarted job does not meet in the old place
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("group", job.store()),  # type: ignore[attr-defined]
            rank=job.rank(),
            world_size=job.world_size(),
            timeout=job.PATIENCE,
            device_id=torch.device("cuda", job.number("LOCAL_RANK")) if cuda else None,
        )
        atexit.register(_leave)
    fabric.launch()
    console.quiet = fabric.global_rank > 0
    return fabric, Ranks(fabric.global_rank, fabric.world_size, fabric.device)
