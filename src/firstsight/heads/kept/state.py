"""What a writing head checks before it takes over a saved state."""

import math
from typing import Any

import torch


def state_errors(
    state_dict: dict[str, Any],
    prefix: str,
    *,
    num_classes: int,
    T: float,
    record: bool,
    moments: torch.Size | None,
    version: int,
    newest: int,
) -> list[str]:
    """Why a head of these settings cannot take over the entries that begin with ``prefix``; empty if it can.

    Also where strict=False: trained rows with counts of 1 would be overwritten one by one, unseen.
    """
    found, name = [], f"{prefix}counts"
    if f"{prefix}weight" in state_dict and name not in state_dict:
        found.append(
            f'the state has no "{name}", as that of an nn.Linear or a Softmax has none. Say how well its rows are '
            f'known before you load it: state["{name}"] = torch.full(({num_classes},), {math.ceil(T)}) '
            f"leaves them to the gradient, the occurrences in training + 1 is what the rule would have counted, "
            f"and ones let the next sight of a class overwrite its row."
        )
    elif f"{prefix}weight" in state_dict and getattr(state_dict.get(f"{prefix}moments"), "shape", None) != moments:
        found.append(
            "the state was made with another rule than that of this head, or of another width: make the head with the "
            'rule it was made with. The default was rule="paper" once; now it is "sight".'
        )
    name = f"{prefix}written"
    if f"{prefix}weight" in state_dict and (name in state_dict) != record:
        found.append(
            f'"{name}" is in the state or the head has record=True, and not both: a tied embedding would change by all '
            f"that was written. Make the head with record={name in state_dict}."
        )
    if version > newest:
        found.append(
            f"the state is of layout {version}, of a newer firstsight; this one reads up to {newest}. Update it."
        )
    return found
