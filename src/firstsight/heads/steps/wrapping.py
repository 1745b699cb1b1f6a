"""What ``DistributedDataParallel`` has to leave to the heads that look after it themselves."""

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakTensorKeyDictionary

from firstsight.errors import InputError
from firstsight.heads.steps.exchange import is_shared
from firstsight.heads.steps.sparse import Averaging

# The hooks of each parameter that is averaged here, which a second prepare_ddp takes off first.
_HOOKS: Any = WeakTensorKeyDictionary()
# Of each group that DDP uses, in a group of the same processes.
_AVERAGING: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def prepare_ddp(model: nn.Module, group: "dist.ProcessGroup | None" = None) -> list[str]:
    """Call it before ``DistributedDataParallel(model)``, where a head in it has gradients of its own.

    Those whose classes are shared out over the processes have: the same row is another class on each, and a mean over
    processes, like the copies that are made of the first one's rows, would be of different things. So have sampled ones
    whose gradients are sparse, which DDP cannot take: they start everywhere as on the first process, as all that is
    wrapped, and each backward pass ends with the mean of their gradients over the processes; so it has to come by the
    same of them everywhere. All else in the model is wrapped as ever. Where no head is such a one, nothing is changed.
    A collective where there are sparse ones.

    Args:
        model: the module that will be wrapped itself, not a part of it.
        group: the ``process_group`` that DDP will be given; None, as there, for all processes.

    Returns:
        The names of the parameters and buffers that are left out.

    Raises:
        InputError: (a ``ValueError``) the model is wrapped already, or is nothing but such a head. From the backward
            pass, on all processes: some came by another head, or have a dense gradient where others have a sparse one.
    """
    if isinstance(model, DistributedDataParallel):
        raise InputError("the model is wrapped already; call prepare_ddp(model) before DistributedDataParallel(model).")
    heads = [(name, head) for name, head in model.named_modules() if getattr(head, "_own_gradients", False)]
    names: set[str] = set()
    for prefix, head in heads:
        if head is model:
            raise InputError(
                "the model is nothing but a head that looks after its gradients itself. Give the module that you wrap: "
                "a sharded head can do without DistributedDataParallel, a sparse one goes in with the body."
            )
        if getattr(head, "sparse", False) and not hasattr(head, "part") and is_shared(group):
            _start_alike(head, group)
            _average(prefix, head, group)
        kept = [*head.named_parameters(remove_duplicate=False), *head.named_buffers(remove_duplicate=False)]
        names |= {f"{prefix}.{name}" for name, _ in kept}
    if not names:
        return []
    names |= set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    # torch's own way, which is not public yet (pytorch#43690); the root module alone is asked.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, sorted(names))  # type: ignore[no-untyped-call]
    return sorted(names)


@torch.no_grad()
def _start_alike(head: nn.Module, group: "dist.ProcessGroup | None") -> None:
    device = next(head.parameters()).device
    for one in [*head.parameters(), *head.buffers()]:
        if one.device == device:
            dist.broadcast(one.data, group=group, group_src=0)


def _average(prefix: str, head: nn.Module, group: "dist.ProcessGroup | None") -> None:
    of = dist.group.WORLD if group is None else group
    if of not in _AVERAGING:
        ranks = dist.get_process_group_ranks(of)
        _AVERAGING[of] = Averaging(dist.new_group(ranks, use_local_synchronization=True))
    parameters = dict(head.named_parameters())
    for parameter in parameters.values():
        if (before := _HOOKS.pop(parameter, None)) is not None:
            before.remove()
    for name, hook in _AVERAGING[of].watch(prefix, parameters).items():
        _HOOKS[parameters[name]] = hook
