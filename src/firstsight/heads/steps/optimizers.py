"""Optimizers as people have them: wrapped, nested, and with weights of their own.

Shapes: V classes, D features.
"""

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
import torch.optim.optimizer as of_all
from torch import Tensor

from firstsight.errors import InputError

# Of the twin's parameters, in each dimension; steps after which it is asked what is left of a change.
_SIZE, _STEPS, _CHANGED_AT = 4, 16, 3
_MOST = 64  # parameters of a twin, where it does not need them all
# What a twin may share, for it cannot change.
_SAFE = (
    int | float | complex | str | bytes | None | torch.dtype | torch.device | type | BuiltinFunctionType | slice | range
)
# Less than this share left of what was written is no write: Lookahead leaves a half, a copy in float32 nothing.
ENOUGH = 0.75


def followed(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer whose steps say when to write: the one given, or that inside of a wrapper.

    Raises:
        InputError: it is none of torch's, and has none inside.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer) and _hooks(optimizer) in (None, _hooks(inner)):
        return followed(inner)
    if not isinstance(optimizer, torch.optim.Optimizer) or _hooks(optimizer) is None:
        raise InputError(
            f"the optimizer is a {type(optimizer).__name__}, which has no hooks on its steps as those of torch.optim "
            "have. Attach to the torch optimizer inside of it, or call head.write(h, y) after each of its steps."
        )
    return optimizer


def _hooks(optimizer: Any) -> object:
    return getattr(optimizer, "_optimizer_step_post_hooks", None)


def holds(optimizer: torch.optim.Optimizer, weight: Tensor) -> bool:
    """Whether its steps move this very parameter."""
    return any(parameter is weight for group in optimizer.param_groups for parameter in group["params"])


def inside(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that one keeps in its attributes, and those in theirs."""
    found = [optimizer]
    for outer in found:
        for value in vars(outer).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, torch.optim.Optimizer) and all(one is not other for other in found):
                    found.append(one)
    return found[1:]


@torch.no_grad()
def survival(optimizer: torch.optim.Optimizer, weight: Tensor) -> float | None:
    """How much of a change made to the weight between two steps is left after some more of them.

    Two small twins of the optimizer, of the same class, settings and contents, step on the same gradients; the weight
    of one is changed once. An optimizer that steps *from* the weight keeps the change, whatever its rule; one that
    keeps weights of its own (averages, slow weights, float32 masters) takes it back.

    Returns:
        The share left, about 1; None where a twin cannot be made, or does not step.
    """
    random = torch.random.fork_rng(devices=[weight.device] if weight.device.type == "cuda" else [])
    with random, _no_hooks_of_all(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ends = [_run(*_twin(optimizer, weight), changed) for changed in (False, True)]
        except Exception:  # whatever a stranger's optimizer asks for and a twin has not: then there is no answer
            return None
    (plain, _), (moved, change) = ends
    share = float(((moved - plain) * change).sum() / change.square().sum())
    return share if abs(share) < float("inf") else None


@contextmanager
def _no_hooks_of_all() -> Iterator[None]:
    """Without the hooks that torch calls for the steps of every optimizer: a twin's are nobody's affair."""
    kinds: list[Any] = [of_all._global_optimizer_pre_hooks, of_all._global_optimizer_post_hooks]
    before = [dict(hooks) for hooks in kinds]
    for hooks in kinds:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in zip(kinds, before, strict=True):
            hooks.update(kept)


def _twin(optimizer: torch.optim.Optimizer, weight: Tensor) -> tuple[torch.optim.Optimizer, Tensor]:
    small = _Small()
    twin: torch.optim.Optimizer = small.of(optimizer)
    for one in (twin, *inside(twin)):
        for group in one.param_groups:
            if "weight_decay" in group:
                group["weight_decay"] = 0.0
            if not group.get("lr", 1):  # where a schedule begins at 0
                group["lr"] = 1e-3
        if sum(len(group["params"]) for group in one.param_groups) > _MOST and not small.aside:
            for group in one.param_groups:
                group["params"] = [p for p in group["params"] if p is small.of(weight)] or group["params"][:1]
    return twin, small.of(weight)


class _Small:
    """Copies of what optimizers hold, with a corner of each tensor, as one thing however often it is met.

    Nothing of the original is shared but what cannot change. Of what may hold more than can be seen, as modules, bound
    methods of others and closures do, there is no copy: TypeError.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._seen: list[Any] = []  # so that no id is given to another
        self.aside = False  # whether there are tensors beside the groups: then all parameters are needed

    def of(self, value: Any) -> Any:
        if id(value) not in self._made:
            self._seen.append(value)
            self._add(value)
        return self._made[id(value)]

    def _add(self, value: Any) -> None:
        at = id(value)
        if isinstance(value, Tensor):
            corner = value.detach()[(slice(_SIZE),) * value.ndim].clone()
            self._made[at] = torch.nn.Parameter(corner, value.requires_grad) if value.requires_grad else corner
        elif isinstance(value, torch.optim.Optimizer):
            twin = self._made[at] = object.__new__(type(value))
            for name, part in vars(value).items():
                if name != "step":  # as schedulers patch it
                    twin.__dict__[name] = self._part(name, part)
        elif isinstance(value, dict):
            made = self._made[at] = copy.copy(value)
            made.clear()
            made.update({self.of(key): self.of(part) for key, part in value.items()})
        elif type(value) in (list, tuple, set):
            self._made[at] = type(value)(self.of(part) for part in value)
        elif isinstance(value, MethodType) and isinstance(value.__self__, torch.optim.Optimizer):
            self._made[at] = MethodType(value.__func__, self.of(value.__self__))
        elif isinstance(value, _SAFE) or (isinstance(value, FunctionType) and not value.__closure__):
            self._made[at] = value
        else:
            raise TypeError(f"no twin of a {type(value).__name__}")

    def _part(self, name: str, part: Any) -> Any:
        if name.endswith("_hooks"):
            return OrderedDict()
        if name not in ("param_groups", "state", "defaults"):
            self.aside = self.aside or isinstance(part, Tensor | list | dict)
        return defaultdict(dict) if name == "state" else self.of(part)


def _run(twin: torch.optim.Optimizer, weight: Tensor, changed: bool) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    parameters = [p for group in twin.param_groups for p in group["params"]]

    def like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=random).to(tensor)

    change = like(weight) * (weight.norm() / weight.numel() ** 0.5 or 1.0)
    for step in range(_CHANGED_AT + _STEPS):
        gradients = [like(parameter) * 0.1 for parameter in parameters]
        _step(twin, lambda: _give(parameters, gradients))  # noqa: B023
        if changed and step == _CHANGED_AT:
            weight += change
    return weight.detach().clone().float(), change.float()


def _give(parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return torch.ones(())


def _step(twin: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> None:
    closure()
    try:
        twin.step()
    except (TypeError, AssertionError, RuntimeError, ValueError):  # those that want a closure say so in many ways
        twin.step(closure)  # type: ignore[arg-type]
