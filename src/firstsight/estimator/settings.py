"""What arguments of a classifier may be, of those that its layer does not check itself."""

from typing import Any

import numpy as np

from firstsight.errors import InputError

MOST_TAU = 10  # counts to that power are finite


def check_settings(of: Any) -> None:
    """Raise InputError unless the numbers among the arguments are such that a training can go by them."""
    if of.learning_rate != "auto" and not (_is_number(of.learning_rate) and of.learning_rate > 0):
        raise InputError(f'learning_rate is {of.learning_rate!r}; expected a number above 0, or "auto".')
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


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
