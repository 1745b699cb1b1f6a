"""What arguments of a classifier may be, of those that its layer does not check itself."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError

MOST_TAU = 10  # counts to that power are finite
MOST_RATE = 1e30  # beyond it Adam's own numbers leave float32


def check_settings(of: Any) -> None:
    """Raise InputError unless the numbers among the arguments are such that a training can go by them."""
    if of.learning_rate != "auto" and not (_is_number(of.learning_rate) and 0 < of.learning_rate <= MOST_RATE):
        raise InputError(
            f'learning_rate is {of.learning_rate!r}; expected a number above 0, {MOST_RATE:g} at most, or "auto".'
        )
    for name, least in (("epochs", 1), ("batch_size", 1), ("least_steps", 0)):
        value = getattr(of, name)
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number, {least} or more.")
    for name, also in (("T", " or None"), ("gamma", " or None"), ("price", ""), ("logit_adjustment", "")):
        value = getattr(of, name)
        if not (_is_number(value) or (also and value is None)):
            raise InputError(f"{name} is {value!r}; expected a number{also}.")
    if not 0 <= of.logit_adjustment <= MOST_TAU:
        raise InputError(
            f"logit_adjustment is {of.logit_adjustment}; expected tau, from 0 (none) to {MOST_TAU}; 1 is usual."
        )
    _check_class_weight(of.class_weight)


def device_of(name: Any) -> torch.device:
    """The device of this name, the CPU of None, once a number was put there and read back.

    Raises:
        InputError: torch knows no such device, or it is not in this machine.
    """
    try:
        device = torch.device("cpu" if name is None else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"device is {name!r}, which cannot be used ({why}); expected one of this machine, as torch names it: "
            '"cpu", "cuda", "cuda:1".'
        ) from error
    return device


def _check_class_weight(given: Any) -> None:
    if given is None or (isinstance(given, str) and given == "balanced"):
        return
    if not isinstance(given, Mapping):
        raise InputError(f'class_weight is {given!r}; expected None, "balanced", or a dict of labels and numbers.')
    for label, weight in given.items():
        if not (_is_number(weight) and math.isfinite(weight) and weight >= 0):
            raise InputError(f"class_weight of {label!r} is {weight!r}; expected a number, 0 or more.")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
