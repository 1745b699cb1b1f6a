"""What the pure functions ask of their arguments, and how they say that it is not so."""

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from firstsight.errors import InputError

IGNORE_INDEX = -100
Classes: TypeAlias = Iterable[int] | Tensor


def flatten(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[..., D] and [...] as [N, D] and [N]."""
    return hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)


def counted(hidden: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activations [N, D] and labels [N] of the tokens that count, and which of all they are, as bool.

    Raises:
        InputError: a label that counts is not in [0, V).
    """
    h_ND, y_N = flatten(hidden, target)
    keep_N = y_N != ignore_index
    h_ND, y_N = h_ND[keep_N], y_N[keep_N]
    if len(y_N):
        check_range(int(y_N.min()), int(y_N.max()), num_classes, ignore_index)
    return h_ND, y_N, keep_N


def product_dtype(hidden: Tensor, weight: Tensor, asked: torch.dtype | None) -> torch.dtype:
    """Of the matrix products: what is asked for, else that of autocast, else the tensors' own."""
    if asked is not None:
        return asked
    device = hidden.device.type
    own = torch.promote_types(hidden.dtype, weight.dtype)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own


def as_labels(target: Tensor) -> Tensor:
    """Labels of any integer dtype as int64; what is no integer stays, and is refused by ``check_shapes``."""
    if not isinstance(target, Tensor):
        raise InputError(f"target is a {type(target).__name__}; expected a tensor of labels.")
    integer = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    return target.long() if integer else target


def class_labels(classes: Classes, num_classes: int, name: str) -> Tensor:
    """Labels [N] int64 in [0, V), each once, of whatever integers they are given as.

    Raises:
        InputError: they are not as above.
    """
    try:
        given = classes if isinstance(classes, Tensor) else torch.as_tensor(list(classes))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} is {classes!r}; expected labels from 0 to {num_classes - 1}, each once.") from None
    given_N = as_labels(given.flatten()) if given.numel() else torch.zeros(0, dtype=torch.int64)
    inside = given_N.dtype == torch.int64 and bool(((given_N >= 0) & (given_N < num_classes)).all())
    if not inside or len(set(given_N.tolist())) < len(given_N):
        raise InputError(f"{name} is {given_N.tolist()[:8]}; expected labels from 0 to {num_classes - 1}, each once.")
    return given_N


def check_rule(T: float, gamma: float) -> None:
    """Raise InputError unless T is above 0 and gamma in [0, 1]."""
    if not T > 0:
        raise InputError(f"T is {T}; expected a number above 0: a class is written until it has been seen T times.")
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma is {gamma}; expected a rate in [0, 1]: 0 sets no floor, 1 always overwrites.")


def check_shapes(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    """Raise InputError unless hidden is [..., D] float, weight [V, D] and target [...] int64."""
    if not isinstance(hidden, Tensor):
        raise InputError(f"hidden is a {type(hidden).__name__}; expected a tensor, [..., {weight.shape[-1]}].")
    if weight.ndim != 2:
        raise InputError(f"weight is {list(weight.shape)}; expected [num_classes, features].")
    if hidden.shape != (*target.shape, weight.shape[1]):
        raise InputError(
            f"hidden is {list(hidden.shape)} and target {list(target.shape)}; expected hidden [..., {weight.shape[1]}] "
            f"(the width of weight) and target with the same leading dimensions."
        )
    if target.dtype != torch.int64 or not hidden.is_floating_point():
        raise InputError(
            f"hidden is {hidden.dtype} and target {target.dtype}; expected floating point and torch.int64, or other "
            "whole numbers."
        )


def check_labels(hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int) -> None:
    """``check_shapes``, and raise InputError for a label outside [0, V) that is not ``ignore_index``."""
    check_shapes(hidden, weight, target)
    if (kept_N := target[target != ignore_index]).numel():
        check_range(int(kept_N.min()), int(kept_N.max()), weight.shape[0], ignore_index)


def check_range(lowest: int, highest: int, num_classes: int, ignore_index: int) -> None:
    """Raise InputError unless the labels from ``lowest`` to ``highest`` lie in [0, num_classes)."""
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"target holds the label {lowest if lowest < 0 else highest}; expected 0 to {num_classes - 1} "
            f"(num_classes = {num_classes}), or {ignore_index} for what does not count."
        )


def check_class_weight(class_weight: Tensor, num_classes: int) -> None:
    """Raise InputError unless there is a number of 0 or more for each of the classes."""
    if class_weight.shape != (num_classes,) or not class_weight.is_floating_point() or bool((class_weight < 0).any()):
        raise InputError(
            f"the class weights are {list(class_weight.shape)} of {class_weight.dtype}; expected [{num_classes}] "
            "numbers, each 0 or more, one for each row of weight."
        )
