"""The saved state of a writing head: its rule in numbers, and what is asked of a state before it is taken over.

Shapes: V classes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.heads.kept.fresh import COUNTED

# Values of the buffer ``settings``: a clock of training steps, as bits, and bytes of JSON, one a value. All are whole
# in every dtype that a model is cast to. Where models are averaged bytes stay what they are, and the mean of bits that
# differ is neither 0 nor 1. The clock's round is a prime, so that no usual stride of averaging stands still in it.
_LENGTH, _ROUND, CLOCK = 128, 65_521, tuple(2**bit for bit in range(16))
_FIRST = {"objective": "l2"}  # what a state means that does not say it
_FAR = 2**62  # of a T that is no count: more than a class is ever seen


def settings_of(rule: str, T: float, gamma: float, objective: str) -> dict[str, Any]:
    """What a state says of a rule, as plain numbers and names."""
    T = int(T) if float(T).is_integer() else float(T)
    return {"rule": rule, "T": T, "gamma": float(gamma), "objective": objective}


def coded(settings: Mapping[str, Any], device: torch.device | str | None = None) -> Tensor:
    """``settings_of`` a rule as one tensor, which safetensors and ``save_pretrained`` keep like any buffer.

    An objective of "l2" is not named, so that states are what they were before there were others.
    """
    code = json.dumps({name: value for name, value in settings.items() if value != _FIRST.get(name)}).encode()
    return torch.tensor([0.0] * len(CLOCK) + [*code.ljust(_LENGTH - len(CLOCK))], dtype=torch.float32, device=device)


def tick(settings: Tensor) -> None:
    """Another step of training was written."""
    bits = torch.tensor(CLOCK, dtype=torch.float32, device=settings.device)
    now = (steps_of(settings) + 1) % _ROUND
    settings[: len(CLOCK)] = (now / bits).floor() % 2


def steps_of(settings: Tensor) -> Tensor:
    """How many steps of training were written, [] int64, and left where the settings are; after a round from 0 on."""
    bits = torch.tensor(CLOCK, dtype=torch.float32, device=settings.device)
    return (settings[: len(CLOCK)].float() @ bits).long()


def is_averaged(settings: Tensor) -> bool:
    """Whether it is the mean of several."""
    return not {0.0, 1.0}.issuperset(settings[: len(CLOCK)].tolist())


def decoded(settings: Tensor) -> dict[str, Any] | None:
    """What ``coded`` was given; None if the tensor is none of its, as memory that nobody has written to."""
    try:
        told = _FIRST | json.loads(bytes(round(value) for value in settings[len(CLOCK) :].tolist()))
        return {name: told[name] for name in ("rule", "T", "gamma", "objective")}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def known_well(T: float) -> int:
    """A count from which on no row is written."""
    return math.ceil(T) if T < _FAR else _FAR


def saved(state: Mapping[str, Any], prefix: str, num_classes: int) -> dict[str, Tensor]:
    """What a saved state of a whole model holds of the one output layer that was attached.

    Raises:
        InputError: nothing, or of several layers, or of another number of classes.
    """
    ends = [name.removesuffix(f"{prefix}counts") for name in state if name.endswith(f"{prefix}counts")]
    if len(ends) != 1:
        raise InputError(f"the state given as counts holds {prefix}counts of {len(ends)} layers; expected one.")
    start = ends[0] + prefix
    found = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    if errors := value_errors(found):
        raise InputError("the state given as counts cannot be one: " + " ".join(errors))
    if len(found["counts"]) != num_classes:
        raise InputError(f"the state given as counts is of {len(found['counts'])} classes, the layer of {num_classes}.")
    return found


def _unusable(kept: Mapping[str, Any]) -> list[str]:
    """What is no tensor such as a head keeps: of real numbers, one axis at least, and all of them there."""
    return [
        f"its {name} is no dense tensor of real numbers, one for each class at least."
        for name, value in kept.items()
        if not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.is_meta
        or value.is_complex()
        or value.is_quantized
        or value.ndim < 1
    ]


def value_errors(kept: Mapping[str, Tensor]) -> list[str]:
    """What cannot be in what a head has kept of its classes."""
    if found := _unusable(kept):
        return found
    counts, moments, fresh = (kept.get(name) for name in ("counts", "moments", "fresh"))
    for name, dtype in (("counts", torch.int64), ("fresh", torch.uint8)):
        if name in kept and kept[name].dtype != dtype:
            found.append(f"its {name} are {kept[name].dtype}; expected {dtype}, which no cast has rounded.")
    if counts is not None and counts.numel() and (lowest := int(counts.min())) < 1:
        found.append(f"its counts are 1 + occurrences, and the lowest is {lowest}; expected 1 or more.")
    if moments is not None and not bool(moments.isfinite().all()):
        found.append("its moments hold NaN or infinity; zeros in their place start them afresh.")
    if fresh is not None and fresh.numel() and int(fresh.max()) > COUNTED:
        found.append(f"its fresh says {int(fresh.max())} of a class; expected 0 to {COUNTED}.")
    return found


def other_settings(told: Mapping[str, Any], ours: Mapping[str, Any], mend: str) -> str:
    """What to do about a state of another rule or objective, or of another T or gamma."""
    names = [name for name in told if name != "objective" or told[name] != ours[name]]
    given, here = (", ".join(f"{name}={one[name]!r}" for name in names) for one in (told, ours))
    same = told["rule"] == ours["rule"] and "objective" not in names
    other = mend if same else "take its rows over, from_linear(old.to_linear(), old.counts - 1)"
    return f"the state was made with {given}, and this head has {here}. Make it with the former; to go on, {other}."


def state_errors(
    state_dict: Mapping[str, Any],
    prefix: str,
    of_kept: str = "",
    *,
    num_classes: int,
    names: Sequence[str],
    ours: Mapping[str, Any],
    record: bool,
    moments: torch.Size | None,
    version: int,
    newest: int,
) -> list[str]:
    """Why a head of the settings ``ours`` cannot take over the entries that begin with ``prefix``; empty if it can.

    Also where strict=False: trained rows with counts of 1 would be overwritten one by one, unseen. ``of_kept`` is a
    second prefix, of what the head keeps.
    """
    rows = state_dict.get(f"{prefix}weight")
    prefix += of_kept
    theirs = {name: state_dict.get(f"{prefix}{name}") for name in names}
    given = {name: value for name, value in {**theirs, "weight": rows}.items() if value is not None}
    if unusable := _unusable(given):
        return unusable
    impossible = value_errors({name: value for name, value in given.items() if name != "weight"})
    if rows is None:
        return impossible
    found, name = [], f"{prefix}counts"
    if name not in state_dict and "fresh" in names:
        found.append(
            f'the state has no "{name}", as that of an nn.Linear or a Softmax has none. Load it into one, and take '
            'that over: HebbianSoftmax.from_linear(linear, "trained"), and firstsight.attach(model, optimizer, '
            'counts="trained") where the layer stays.'
        )
        return found
    if name not in state_dict:
        found.append(
            f'the state has no "{name}", as that of an nn.Linear or a Softmax has none. Say how well its rows are '
            f'known before you load it: state["{name}"] = torch.full(({num_classes},), {known_well(ours["T"])}) '
            f"leaves them to the gradient, the occurrences in training + 1 is what the rule would have counted, "
            f"and ones let the next sight of a class overwrite its row."
        )
        return found
    if len(rows) != num_classes:
        more = len(rows) - num_classes
        grow = f", or call add_classes({more}) before you load it" if more > 0 else ""
        found.append(f"the state is of {len(rows)} classes, the head of {num_classes}. Make it of {len(rows)}{grow}.")
    told = decoded(state_dict[f"{prefix}settings"]) if f"{prefix}settings" in state_dict else None
    if f"{prefix}settings" in state_dict and told is None:
        found.append(f'"{prefix}settings" is damaged or was never filled; the state is not to be trusted.')
    elif told is not None and told != ours:
        found.append(other_settings(told, ours, f'del state["{prefix}settings"] before you load it'))
    elif getattr(state_dict.get(f"{prefix}moments"), "shape", None) != moments:
        found.append(
            "the state was made with another rule than that of this head, or of another width: make the head with the "
            'rule it was made with. The default was rule="paper" once; now it is "sight".'
        )
    if (f"{prefix}written" in state_dict) != record:
        found.append(
            f'"{prefix}written" is in the state or the head has record=True, and not both: a tied embedding would '
            f"change by all that was written. Make the head with record={f'{prefix}written' in state_dict}."
        )
    if version > newest:
        found.append(
            f"the state is of layout {version}, of a newer firstsight; this one reads up to {newest}. Update it."
        )
    if told is not None and is_averaged(state_dict[f"{prefix}settings"]):
        found.append(
            "its counts were averaged with its rows, and cut to whole numbers. Average with use_buffers=False, which "
            f"copies buffers; or put the model's own counts (and fresh) there, and del state['{prefix}settings']."
        )
    if lost := [name for name in names if name in ("fresh", "lifted") and theirs[name] is None]:
        found.append(f"it has no {' and no '.join(lost)}, without which it is not known which classes are new.")
    return found + impossible
