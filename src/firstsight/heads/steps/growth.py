"""Growth of a parameter in its first dimension, and the loss of rows, with all that hangs on it.

The ``Parameter`` object stays: tied embeddings, ``param_groups`` and hooks go on referring to it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.heads.steps.optimizers import inside

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

    One allocation and one copy for each tensor.
    """
    for optimizer in optimizers:
        group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), {})
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[name] = _longer(value, n)
                state[name][-n:] = group["initial_accumulator_value"] if name == "sum" else 0
    grad, parameter.grad = parameter.grad, None
    longer = _longer(parameter.data, n)
    longer[-n:].uniform_(-bound, bound)
    _replace_data(parameter, longer)
    if grad is not None:
        parameter.grad = _longer(grad, n)
        parameter.grad[-n:] = 0


@torch.inference_mode(False)
@torch.no_grad()
def shrink_(parameter: nn.Parameter, kept: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Keep these rows [n] of a parameter, of its gradient and of its optimizers' state, in this order."""
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[name] = value[kept]
    grad, parameter.grad = parameter.grad, None
    _replace_data(parameter, parameter.data[kept])
    if grad is not None:
        parameter.grad = grad[kept]


def _replace_data(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter data of another length.

    A graph that is still alive holds on to the parameter's gradient accumulator, which remembers the old shape and
    would be used for the next graph as well. torch lets go of it when the dtype changes, not when the shape does.
    """
    parameter.data = data.new_empty(0, dtype=torch.float32 if data.dtype == torch.float64 else torch.float64)
    parameter.data = data


def _longer(old: Tensor, n: int) -> Tensor:
    new = old.new_empty(len(old) + n, *old.shape[1:])
    new[: len(old)] = old
    return new
