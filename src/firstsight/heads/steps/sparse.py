"""Of heads that learn from samples: the steps that they draw by; sparse gradients, and their mean over processes.

Shapes: V classes, U rows that a gradient reaches, R ranks; [...] stands for what one row has.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from firstsight.errors import InputError
from firstsight.heads.steps.agreement import digest
from firstsight.heads.steps.exchange import gather

_TAKE = torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam
_REFUSED = {
    "momentum": "keeps every row that was ever met, as a sparse tensor that only grows",
    "weight_decay": "is of all rows",
    "fused": "takes none",
}
_DENSE = -1  # in place of a number of rows


def check_takes_sparse(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Raise InputError if it is one of torch, or has a setting for these, that a sparse gradient will not do for.

    One from elsewhere may take them: its first step says.
    """
    mend = (
        "Take torch.optim.SGD, Adagrad or SparseAdam for this head's parameters, in an optimizer of their own if the "
        "rest of the model has another; or make the head with sparse=False."
    )
    of_torch = type(optimizer).__module__.startswith("torch.optim")
    if of_torch and not isinstance(optimizer, _TAKE):
        raise InputError(f"the optimizer is {type(optimizer).__name__}, which refuses sparse gradients. {mend}")
    own = {id(parameter) for parameter in parameters}
    holding = [group for group in optimizer.param_groups if own & {id(one) for one in group["params"]}]
    for group in holding if of_torch else ():
        for name, why in _REFUSED.items():
            if group.get(name):
                raise InputError(f"{name} is {group[name]}, which {why}: expected 0 with sparse gradients. {mend}")


def counting(head: Any, optimizer: torch.optim.Optimizer) -> Any:
    """A hook that counts the optimizer's steps in ``head.step``, by which samples are drawn; it keeps no head alive."""
    reference = weakref.ref(head)

    def count(*_: Any) -> None:
        if (alive := reference()) is not None:
            alive.step += 1

    return optimizer.register_step_post_hook(count)


def is_any(grad: Tensor) -> bool:
    """Whether a gradient, dense or sparse, has a number that is not 0."""
    return bool((grad.coalesce().values() if grad.is_sparse else grad).any())


def any_of_rows(grad: Tensor, rows: Tensor) -> Tensor:
    """Whether it has one in these rows [n], as bool []."""
    if not grad.is_sparse:
        return grad[rows].any()
    grad = grad.coalesce()
    return grad.values()[torch.isin(grad.indices()[0], rows)].any()


class Averaging:
    """Makes the gradients of heads the mean over the ranks of a group, as each backward pass ends: what DDP does.

    Collective: every rank's pass has to come by the same heads. They go in the order of their names, whatever the pass
    came by first. Gradients of earlier passes that are there, and are means, stay what they are. Of sparse ones as many
    rows are sent as the rank with most has; dense ones, as of ``nll`` and of samples from V on, whole.

    Args:
        group: for this alone, as sums of DDP in the group of its own are under way meanwhile.
    """

    def __init__(self, group: "dist.ProcessGroup") -> None:
        self._group, self._pass = group, -1
        self._heads: dict[str, dict[str, Tensor]] = {}

    def watch(self, head: str, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """Hooks on the parameters of a head that are trained, by name; all names are the same on all ranks."""
        named = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        come_by = partial(self._come_by, head, weakref.WeakValueDictionary(named))
        return {name: one.register_post_accumulate_grad_hook(come_by) for name, one in named.items()}  # type: ignore[no-untyped-call]

    def _come_by(self, head: str, named: Mapping[str, Tensor], _: Tensor) -> None:
        # One that raised has left its heads behind, and no callback: so each pass is known by its number.
        if (task := torch._C._current_graph_task_id()) != self._pass:
            self._pass, self._heads = task, {}
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
        self._heads[head] = dict(named)

    def _end(self) -> None:
        heads, self._heads, self._pass = self._heads, {}, -1
        for head, named in sorted(heads.items()):
            self._average(head, named)

    @torch.no_grad()
    def _average(self, head: str, named: Mapping[str, Tensor]) -> None:
        """Raises InputError on all ranks: one is at another head, or some gradients are sparse and some are not."""
        device = next(iter(named.values())).device
        sizes = {name: tuple(one.shape) for name, one in named.items()}
        own = digest({"head": head, **sizes})
        digests = [int(one) for one in gather(torch.tensor([own], device=device), self._group, None)]
        if others := sum(one != own for one in digests):
            raise InputError(
                f"this process's backward pass came by {head}, a head with sparse gradients, of {sizes}, and {others} "
                "others by another one, or by one of other sizes. Expected all to come by the same heads: give each "
                "loss a part of every such head, of no tokens if need be, and add classes on all processes."
            )
        for parameter in named.values():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = _mean(grad, self._group)


def _mean(grad: Tensor, group: "dist.ProcessGroup") -> Tensor:
    grad = grad.coalesce() if grad.is_sparse else grad
    own = len(grad.values()) if grad.is_sparse else _DENSE
    sizes = [int(size) for size in gather(torch.tensor([own], device=grad.device), group, None)]
    if _DENSE not in sizes:
        return _mean_of_rows(grad, sizes, group)
    if set(sizes) != {_DENSE}:
        raise InputError(
            f"of {len(sizes)} processes {sizes.count(_DENSE)} have a dense gradient of a head with sparse=True, as of "
            "nll, and the others a sparse one, as of loss; expected the same kind of loss on all in a step."
        )
    mean = (grad / len(sizes)).contiguous()  # what is added up is memory, in whatever order
    dist.all_reduce(mean, group=group)
    return mean


def _mean_of_rows(grad: Tensor, sizes: Sequence[int], group: "dist.ProcessGroup") -> Tensor:
    at_U, values = grad.indices()[0], grad.values()
    missing = max(sizes) - len(at_U)
    places = gather(F.pad(at_U, (0, missing)), group, None)
    rows = gather(F.pad(values, (0, 0) * (values.ndim - 1) + (0, missing)), group, None)
    at = torch.cat([place[:size] for place, size in zip(places, sizes, strict=True)])
    values = torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)]) / len(sizes)
    return torch.sparse_coo_tensor(at[None], values, grad.shape, check_invariants=False).coalesce()


# Of each parameter whose rows are others on each process, how a number is added up over all of them.
_SHARED_OUT: Any = WeakTensorKeyDictionary()


def share_out(parameters: Iterable[Tensor], sum_: Callable[[Tensor], Tensor]) -> None:
    """Let the norm of a gradient know that these are parts: ``sum_`` adds a tensor up over the processes, in place."""
    for parameter in parameters:
        _SHARED_OUT[parameter] = sum_


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """As ``torch.nn.utils.clip_grad_norm_``, where some of the gradients are sparse: the norm of all numbers together.

    .. math:: g \\leftarrow g \\min\\Big(1, \\frac{\\text{max_norm}}{\\lVert g \\rVert + 10^{-6}}\\Big)

    A row that is there twice, as after two backward passes, is added up first: the sparse gradient is coalesced in
    place. (torch's own has no norm of a sparse tensor.) Of a sharded head it is the norm of all processes' rows, the
    same on each, so that the body stays the same too: a collective then. Whatever else is clipped with it has to be
    the same on all.

    Args:
        parameters: those whose ``grad`` is clipped together; ones without are passed over.
        max_norm: above 0.

    Returns:
        The norm before, [].

    Raises:
        InputError: (a ``ValueError``) max_norm is not above 0.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm is {max_norm}; expected a norm above 0.")
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    numbers: list[Tensor] = []
    alike: list[Tensor] = []
    parts: dict[Any, list[Tensor]] = {}
    for parameter in given:
        if (grad := parameter.grad) is not None and grad.is_sparse:
            parameter.grad = grad = grad.coalesce()
        values = [] if grad is None else [grad.values() if grad.is_sparse else grad]
        numbers += values
        sum_ = _SHARED_OUT.get(parameter)
        (alike if sum_ is None else parts.setdefault(sum_, [])).extend(values)  # none here may be some elsewhere
    if not numbers and not parts:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(alike)
    for sum_, values in parts.items():
        norm = torch.hypot(norm, sum_(torch.nn.utils.get_total_norm(values) ** 2).sqrt().to(norm))
    share = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for one in numbers:
        one.mul_(share.to(one))
    return norm
