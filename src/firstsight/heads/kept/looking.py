"""Showing a trained layer what it was trained on, or the clusters of one together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from firstsight.errors import InputError, warn
from firstsight.heads.steps.exchange import Group


@contextmanager
def looking(layers: Sequence[Any], group: Group) -> Iterator[None]:
    """``Keeping.looking`` of several layers, the first of which sees every example; one without any stays as it was."""
    first = layers[0]
    for layer in layers:
        if layer._rule.needs == "nothing":
            raise InputError(f"the rule {layer.rule} keeps nothing of what it sees, so there is nothing to look for.")
        if layer._seen is not None:
            raise InputError("this layer is looking already; one looking() at a time.")
        layer._settle()
    group = first._group if group is None else group
    for layer in layers:
        layer._seen = [layer._nothing()]
    try:
        yield
        own = [layer._seen[0] if layer._seen else layer._nothing() for layer in layers]
        of_all = [layer._exchanged(sums, False, group) for layer, sums in zip(layers, own, strict=True)]
    finally:
        for layer in layers:
            layer._seen = None
    if not (examples := int(first._over_all(of_all[0][2].sum()))):
        raise InputError(
            "looking() saw no example. Under it run data through loss, nll or an attached model, with labels."
        )
    if examples < 4 * first.in_features:
        warn(
            f"looking() saw {examples} examples of {first.in_features} features: too few to tell what new classes "
            "would do. Some thousands are better."
        )
    if first._rule.sighted and not first._has_stepped() and not first._is_told():
        warn(
            "this layer was shown data, and all its classes count as those of a layer that starts. If its rows are "
            'trained, say so first: counts="trained" where it was taken over, or head.set_counts("trained").'
        )
    for layer, sums in zip(layers, of_all, strict=True):
        if bool(layer._over_all(sums[2].sum())):
            layer._start_moments(sums)
