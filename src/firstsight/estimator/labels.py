"""The labels that a classifier knows: whatever their kind, sorted, with the row of the layer that each has.

Strings are held as Python's own, in arrays of objects: an array of numpy's strings has a width, cuts what is longer,
and one long label would widen all.

Shapes: N labels, C classes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from firstsight.errors import InputError

UNMET = -1  # the row of a label that was declared and not met yet

_KINDS: dict[str, tuple[type, ...]] = {
    "strings": (str,),
    "booleans": (bool, np.bool_),
    "whole numbers": (int, np.integer),
    "numbers": (float, np.floating),
}
_DTYPES = {"strings": object, "booleans": bool, "whole numbers": np.int64, "numbers": np.float64}


def kind_of(labels: np.ndarray) -> str:
    """What an array of :func:`as_labels` holds."""
    return next(kind for kind, dtype in _DTYPES.items() if labels.dtype == dtype)


def readable(label: Any) -> str:
    """A label as one writes it, 3 and not ``np.int64(3)``."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def as_labels(y: Any) -> np.ndarray:
    """Labels [N] of one kind: strings as objects, whole numbers as int64, booleans, or floats that are whole.

    Raises:
        InputError: (a ``ValueError``) there are none, or of several kinds at once, or of one that no label has.
        ValueError: of scikit-learn: y has more dimensions, or holds a regression's targets.
    """
    if y is None:
        raise InputError("FirstSightClassifier requires y to be passed, but the target y is None; expected labels [N].")
    given = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if isinstance(y, list | tuple) and given.ndim == 1:  # of which numpy makes strings if one of them is
        given = np.fromiter(y, dtype=object, count=len(y))
    labels = column_or_1d(given, warn=True)
    if labels.dtype == object or labels.dtype.kind == "U":
        labels = _of_objects(labels.astype(object))
    if labels.dtype.kind == "u" and len(labels) and int(labels.max()) > np.iinfo(np.int64).max:
        raise InputError(f"y holds {int(labels.max())}; expected whole numbers of 64 bits with a sign. Use strings.")
    if labels.dtype.kind not in "Obiuf":
        raise _strange(str(labels.dtype))
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise _strange("NaN or infinity")
        check_classification_targets(labels)
    dtypes: dict[str, type] = {"O": object, "b": bool, "f": np.float64}
    found: np.ndarray = labels.astype(dtypes.get(labels.dtype.kind, np.int64))
    return found


def _of_objects(labels: np.ndarray) -> np.ndarray:
    kinds = {_kind(one): one for one in set(map(type, labels))}
    if len(kinds) > 1:
        raise InputError(
            f"y holds labels of several kinds, {' and '.join(sorted(kinds))}; expected one kind, for 1 and '1' would "
            "be two classes. Make strings of them all: [str(label) for label in y]."
        )
    if not kinds:
        return labels.astype(np.int64)
    kind = next(iter(kinds))
    if kind == "strings":
        labels[:] = [str(label) for label in labels]  # of numpy's too
        return labels
    try:
        return labels.astype(_DTYPES[kind])
    except OverflowError as error:
        raise InputError("y holds a whole number of more than 64 bits. Make strings of them all.") from error


def _kind(of: type) -> str:
    for kind, types in _KINDS.items():
        if issubclass(of, types):
            return kind
    raise _strange(of.__name__)


def _strange(what: str) -> InputError:
    return InputError(
        f"y holds labels of the kind {what}; expected strings, whole numbers or booleans. None and NaN are no labels: "
        "drop those examples; of bytes, dates and others make strings."
    )


@dataclass(frozen=True)
class Known:
    """The classes that a classifier knows.

    Attributes:
        classes: [C] labels, sorted, each once, as :func:`as_labels` gives them.
        rows: [C] int64, the row of each; ``UNMET`` of one that was declared only. Rows are in order of arrival.
    """

    classes: np.ndarray
    rows: np.ndarray

    def places(self, labels: np.ndarray) -> np.ndarray:
        """Where in ``classes`` labels [N] are, int64; -1 of those that are not.

        Raises:
            InputError: they are of another kind.
        """
        if len(labels) and labels.dtype != self.classes.dtype:
            raise InputError(
                f"y holds {kind_of(labels)} ({readable(labels[0])}), and the classes known are {kind_of(self.classes)} "
                f"({readable(self.classes[0])}); expected the same kind. Convert y."
            )
        at_N = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        return np.where(self.classes[at_N] == labels, at_N, -1)

    def declared(self, labels: np.ndarray) -> "Known":
        """With these labels [n] too, which have no row yet; those that are known already stay what they are."""
        new = np.unique(labels[self.places(labels) < 0])
        if not len(new):
            return self
        at = np.searchsorted(self.classes, new)
        return Known(np.insert(self.classes, at, new), np.insert(self.rows, at, UNMET))

    def met(self, labels: np.ndarray, first: int) -> "Known":
        """With a row for each of these labels [n] that has none: ``first``, ``first`` + 1, ..., as they are sorted."""
        known = self.declared(labels)
        places = np.unique(known.places(labels))
        places = places[known.rows[places] == UNMET]
        rows = known.rows.copy()
        rows[places] = first + np.arange(len(places))
        return Known(known.classes, rows)

    def without(self, places: np.ndarray) -> "Known":
        """Without the classes at these places; the rows after theirs move up."""
        gone = np.sort(self.rows[places])
        rows = np.delete(self.rows, places)
        return Known(np.delete(self.classes, places), rows - np.searchsorted(gone[gone != UNMET], rows))

    @property
    def num_met(self) -> int:
        """How many classes have a row."""
        return int((self.rows != UNMET).sum())

    @cached_property
    def label_of_row(self) -> np.ndarray:
        """[V] the label of each row."""
        labels = np.empty(self.num_met, dtype=self.classes.dtype)
        has_row = self.rows != UNMET
        labels[self.rows[has_row]] = self.classes[has_row]
        return labels
