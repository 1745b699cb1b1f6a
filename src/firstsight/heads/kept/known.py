"""How well the classes of a layer that is taken over are known: the one meaning of ``counts`` and ``new``.

Shapes: V classes.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, as_labels, class_labels
from firstsight.heads.kept.fresh import COUNTED, NEW, TAUGHT, TRAINED

Counts: TypeAlias = Tensor | Sequence[int] | Literal["new", "trained"]

_MEANS = (
    'expected "new" for a layer that starts (a first sight writes its row), "trained" for one whose rows are left to '
    "the gradient, or how often each class has occurred in its training, [{V}] integers of 0 or more. Classes that a "
    "trained layer got since are named by new=."
)


def known(layer: nn.Module, counts: Counts | None, new: Classes) -> tuple[Tensor, Tensor]:
    """What a head keeps of each class of a layer that it takes over.

    Args:
        layer: a linear layer or a head, of V classes.
        counts: "new", "trained", or occurrences [V].
        new: classes of a trained layer that it got since.

    Returns:
        1 + occurrences [V] int64, as the rule counts, 1 where they are not known; and what each class is [V], as
        ``fresh`` has it.

    Raises:
        InputError: counts or new are not as above, or contradict each other.
    """
    rows = cast(Tensor, layer.weight)
    V, device = len(rows), rows.device
    if getattr(layer, "out_features", V) != V:
        raise InputError(
            f"the layer has {V} rows and out_features is {layer.out_features}: a head that shares its parameters has "
            "grown it, or it was resized by hand. Go on with that head, take over a copy, or set out_features."
        )
    new_N = class_labels(new, V, "new").to(device)
    counts_V = torch.ones(V, dtype=torch.int64, device=device)
    fresh_V = torch.full((V,), TRAINED, dtype=torch.uint8, device=device)
    if isinstance(counts, str) and counts == "new":
        if len(new_N):
            raise InputError('counts is "new", so that all classes are; new= is for those of a trained layer.')
    elif isinstance(counts, str) and counts == "trained":
        fresh_V[:] = TAUGHT
    else:
        occurrences_V = _occurrences(counts, V).to(device)
        if len(new_N) and bool((occurrences_V[new_N] > 0).any()):
            raise InputError("a class of new= has occurred, by counts; expected 0 occurrences of what is new.")
        counts_V += occurrences_V
        if bool((occurrences_V > 0).any()):
            fresh_V = torch.where(occurrences_V > 0, COUNTED, NEW).to(fresh_V.dtype)
    counts_V[new_N], fresh_V[new_N] = 1, NEW
    return counts_V, fresh_V


def _occurrences(counts: Counts | None, V: int) -> Tensor:
    try:
        given = as_labels(torch.as_tensor(counts)) if not isinstance(counts, str) and counts is not None else None
    except (TypeError, ValueError, RuntimeError):
        given = None
    fits = given is not None and given.shape == (V,) and given.dtype == torch.int64 and not bool((given < 0).any())
    if given is None or not fits:
        shown = repr(counts) if given is None or given.ndim == 0 else f"{list(given.shape)} {given.dtype}"
        raise InputError(f"counts is {shown}; {_MEANS.format(V=V)}")
    return given
