"""Growth of a parameter in its first dimension, and the loss of rows, with all that hangs on it.

The ``Parameter`` object stays: tied embeddings, ``param_groups`` and hooks go on referring to it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.heads.steps.optimizers import inside
from firstsight.heads.steps.room import longer, shorter

# The state whose value for a row that never had a gradient is 0, of the optimizers of torch.
_ZERO = {
    "momentum_buffer",  # SGD, RMSprop
    "square_avg",  # RMSprop, Adadelta
    "grad_avg",  # RMSprop, centered
    "acc_delta",  # Adadelta
    "exp_avg",  # Adam, AdamW, NAdam, RAdam, Adamax
    "exp_avg_sq",
    "max_exp_avg_sq",  # amsgrad
    "exp_inf",  # Adamax
}


def check_growable(parameters: Iterable[nn.Parameter], optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Raise InputError if an optimizer keeps a state whose fresh rows are not known, before anything has changed."""
    parameters = list(parameters)
    for optimizer in optimizers:
        for parameter in parameters:
            for name, value in optimizer.state.get(parameter, {}).items():
                fresh = name in _ZERO or (name == "sum" and isinstance(optimizer, torch.optim.Adagrad))
                if isinstance(value, Tensor) and value.ndim and not (fresh and value.shape == parameter.shape):
                    shapes = f"{list(value.shape)}, for a parameter of {list(parameter.shape)}"
                    raise _unknown(optimizer, f"{name!r}, {shapes}")
        if name := _joint(optimizer):
            raise _unknown(optimizer, f"{name!r} of all its parameters together")
        for inner in inside(optimizer):  # of one that is shared between processes each has a part: ask for any state
            if inner.state is not optimizer.state and any(inner.state.values()):
                raise _unknown(optimizer, f"the state of a {type(inner).__name__} inside")


def _unknown(optimizer: torch.optim.Optimizer, what: str) -> InputError:
    return InputError(
        f"{type(optimizer).__name__} keeps {what}, and what a new row of it starts with is not known here. Remove the "
        "head's handle, grow, build a new optimizer and attach to that."
    )


def _joint(optimizer: torch.optim.Optimizer) -> str | None:
    """The name of a state with a number for each of all parameters' numbers, as LBFGS has, under its first one."""
    for group in optimizer.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                parts = value if isinstance(value, list | tuple) else [value]
                if any(isinstance(part, Tensor) and part.shape == (size,) != parameter.shape for part in parts):
                    return str(name)
    return None


def check_state(parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Raise InputError if an optimizer's state is that of a parameter before it grew or shrank."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            same = isinstance(value, Tensor) and value.ndim and value.shape[1:] == parameter.shape[1:]
            if same and len(value) != len(parameter):
                raise InputError(
                    f"the optimizer keeps {name!r}, {list(value.shape)}, for a parameter of {list(parameter.shape)}: "
                    "classes came or went while it was not attached. Build a new optimizer, or attach before that."
                )


def check_landed(parameter: Tensor) -> None:
    """Raise InputError if the gradient just added is that of the parameter before it grew."""
    if parameter.grad is not None and parameter.grad.shape != parameter.shape:
        raise InputError(
            f"a loss that was computed before add_classes or remove_classes went backward after it: its gradient is "
            f"{list(parameter.grad.shape)}, the weight now {list(parameter.shape)}. Call backward() first, then grow."
        )


@torch.inference_mode(False)
@torch.no_grad()
def grow_(parameter: nn.Parameter, n: int, bound: float, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Append n rows, uniform in +-bound, to a parameter; zeros to its gradient; fresh rows to its optimizers' state.

    Each of these tensors has room for some rows, or is copied once and gets it: ``room.longer``. One at a time, and
    the old one goes before the next is made: at its peak it needs a new copy of the largest beside all of them.
    """
    for optimizer in optimizers:
        group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), {})
        state = optimizer.state.get(parameter, {})
        for name in _of_rows(state):
            start = group["initial_accumulator_value"] if name == "sum" else 0
            state[name] = longer(state[name], n, start)
    grad, parameter.grad = parameter.grad, None
    data = longer(parameter.data, n, 0)
    data[-n:].uniform_(-bound, bound)
    _let_go(parameter)
    parameter.data = data
    if grad is not None:
        parameter.grad = _longer_sparse(grad, n) if grad.is_sparse else longer(grad, n, 0)


def rows_left(gone: Tensor, num_rows: int) -> Tensor:
    """All other rows, rising; those before the first that goes are not looked at."""
    first = int(gone.min())
    stays = torch.ones(num_rows - first, dtype=torch.bool, device=gone.device)
    stays[gone - first] = False
    kept = torch.arange(num_rows - len(gone), device=gone.device)
    kept[first:] = stays.nonzero()[:, 0].add_(first)
    return kept


@torch.inference_mode(False)
@torch.no_grad()
def shrink_(parameter: nn.Parameter, kept: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Keep these rows [n], rising, of a parameter, of its gradient and of its optimizers' state.

    In each of these tensors the rows behind the first that goes move up, without another copy: ``room.shorter``.
    """
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for name in _of_rows(state):
            state[name] = shorter(state[name], kept)
    grad, parameter.grad = parameter.grad, None
    data = parameter.data
    _let_go(parameter)
    try:
        data = shorter(data, kept)
    finally:
        parameter.data = data
    if grad is not None:
        parameter.grad = _shorter_sparse(grad, kept) if grad.is_sparse else shorter(grad, kept)


def _of_rows(state: dict[str, Any]) -> list[str]:
    """The names of the tensors of a parameter's state that have a row for each of its rows."""
    return [name for name, value in state.items() if isinstance(value, Tensor) and value.ndim]


def _let_go(parameter: nn.Parameter) -> None:
    """Take the data from a parameter that gets others, of another length.

    A graph that is still alive holds on to the parameter's gradient accumulator, which remembers the old shape and
    would be used for the next graph as well. torch lets go of it when the dtype changes, not when the shape does.
    """
    dtype = torch.float32 if parameter.dtype == torch.float64 else torch.float64
    parameter.data = parameter.data.new_empty(0, dtype=dtype)


def _longer_sparse(grad: Tensor, n: int) -> Tensor:
    """The same numbers, of n rows more."""
    return _sparse_like(grad, grad._indices(), grad._values(), len(grad) + n)


def _shorter_sparse(grad: Tensor, kept: Tensor) -> Tensor:
    """The numbers of these rows, by their new places."""
    rows_K = grad._indices()[0]
    place_K = torch.searchsorted(kept, rows_K).clamp(max=len(kept) - 1)
    stays_K = kept[place_K] == rows_K
    indices = grad._indices()[:, stays_K]
    indices[0] = place_K[stays_K]
    return _sparse_like(grad, indices, grad._values()[stays_K], len(kept))


def _sparse_like(grad: Tensor, indices: Tensor, values: Tensor, V: int) -> Tensor:
    # In their order, so that what was coalesced still is.
    return torch.sparse_coo_tensor(
        indices, values, (V, *grad.shape[1:]), is_coalesced=grad.is_coalesced(), check_invariants=False
    )
