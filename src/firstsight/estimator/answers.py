"""What a fitted classifier answers: labels, probabilities, and whether an example is of a known class at all.

Shapes: N examples, C classes, V of them that were met, D features.
"""

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from firstsight.errors import InputError
from firstsight.estimator.labels import UNMET, Known, as_labels, readable
from firstsight.estimator.rows import Rows
from firstsight.functional.tiling.largest import largest_of
from firstsight.scaling import Scaling


class Answers(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The methods of :class:`FirstSightClassifier` that change nothing but the threshold of ``is_known``."""

    _known: Known
    _rows: Rows
    _scaling: Scaling
    unknown_threshold_: float | None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_rows")

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each example, [N]; one of the known, however unlike them the example is."""
        return self.top_k(X, 1)[0][:, 0]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [N, C], float32, in the order of ``classes_``; 0 of a class that was declared and not met."""
        return self._by_class(X, lambda logits: logits.softmax(1), 0.0)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities [N, C], float32, finite where those would be rounded to 0."""
        return self._by_class(X, lambda logits: logits.log_softmax(1), -math.inf)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits [N, C], float32; of two classes, as scikit-learn has it, the second's less the first's, [N]."""
        logits = self._by_class(X, lambda logits: logits, -math.inf)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def top_k(self, X: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k most probable labels of each example, the most probable first, without an array [N, C].

        Returns:
            Labels [N, k], and their probabilities [N, k] float32.

        Raises:
            InputError: (a ``ValueError``) k is not from 1 to the number of classes that were met.
        """
        h_ND = self._hidden(X)
        check_k(k, self._rows.used)
        rows, chances = np.empty((len(h_ND), k), dtype=np.int64), np.empty((len(h_ND), k), dtype=np.float32)
        for at, logits in self._logits(h_ND):
            values, indices = largest_of(logits, k)
            rows[at] = indices.cpu()
            chances[at] = (values - logits.logsumexp(1, keepdim=True)).exp().cpu()
        return self._known.label_of_row[rows], chances

    def unknown_score(self, X: Any) -> np.ndarray:
        """How unlike all known classes each example is, [N] float64: the larger, the less it looks like one of them.

        One less the probability of the most probable label, in nats: -log max p. It says which of two
        examples is less likely of a known class; what it takes to be called unknown is for
        :meth:`set_unknown_threshold` to find.
        """
        h_ND = self._hidden(X)
        scores = np.empty(len(h_ND))
        for at, logits in self._logits(h_ND):
            scores[at] = _unlike(logits).cpu()
        return scores

    def set_unknown_threshold(self, X: ArrayLike, y: Any = None, *, known_share: float = 0.95) -> Self:
        """Set what ``is_known`` goes by, from examples of known classes that were not trained on.

        The threshold is the smallest score of theirs such that an example more of the same kind is called known with
        a probability of ``known_share`` at least: the ceil((N + 1) share)-th smallest of N (split conformal
        prediction; Vovk et al. 2005). It says nothing of how many examples of new classes are called known.

        Args:
            X: [N, D] examples that were kept from ``fit``; trained on, they would look surer than what is to come.
            y: their labels [N], if they are there: checked to be of known classes, and used for nothing else.
            known_share: of the examples of known classes, how many are to be called known.

        Raises:
            InputError: (a ``ValueError``) known_share is not between 0 and 1, N is too small for it, or a label is not
                known.
        """
        if not 0 < known_share < 1:
            raise InputError(f"known_share is {known_share}; expected a share between 0 and 1.")
        scores = np.sort(self.unknown_score(X))
        if y is not None:
            labels = as_labels(y)
            check_consistent_length(scores, labels)
            self._rows_of(labels)
        which = math.ceil((len(scores) + 1) * known_share)
        if which > len(scores):
            least = math.ceil(known_share / (1 - known_share) - 1e-9)
            raise InputError(
                f"X holds {len(scores)} examples, too few to tell where {known_share:.1%} of those to come will be; "
                f"expected {least} at least, or a smaller known_share."
            )
        self.unknown_threshold_ = float(scores[which - 1])
        return self

    def is_known(self, X: Any) -> np.ndarray:
        """Whether each example looks like one of a known class, [N] bool: by the threshold of the last call of
        :meth:`set_unknown_threshold`; ``fit`` forgets it.
        """
        scores = self.unknown_score(X)
        if self.unknown_threshold_ is None:
            raise NotFittedError(
                "is_known has no threshold yet. Call set_unknown_threshold(X, y) with examples of known classes that "
                "were not trained on."
            )
        return scores <= self.unknown_threshold_

    def _by_class(self, X: Any, of_logits: Any, unmet: float) -> np.ndarray:
        """``of_logits`` [N, V] in the order of the classes, [N, C]."""
        h_ND = self._hidden(X)
        rows_C = self._known.rows
        in_order = np.array_equal(rows_C, np.arange(self._rows.used))
        out_NC = np.full((len(h_ND), len(rows_C)), unmet, dtype=np.float32)
        for at, logits in self._logits(h_ND):
            found = of_logits(logits).cpu().numpy()
            if in_order:
                out_NC[at] = found
            else:
                out_NC[at, rows_C != UNMET] = found[:, rows_C[rows_C != UNMET]]
        return out_NC

    def _logits(self, h_ND: Tensor) -> Iterator[tuple[slice, Tensor]]:
        with torch.no_grad():
            yield from self._rows.logits(h_ND)

    def _hidden(self, X: Any) -> Tensor:
        """What goes into the layer, [N, D], checked."""
        check_is_fitted(self)
        return self._scaling.scaled(self._checked(X, reset=False))

    def _checked(self, X: Any, *, reset: bool) -> np.ndarray:
        """X as numpy's, [N, D] float32 or float64, finite; with ``reset`` its width is what is expected from now on."""
        X = X.detach().cpu().float().numpy() if isinstance(X, Tensor) else X
        found: np.ndarray = validate_data(self, X, reset=reset, dtype=[np.float32, np.float64])
        return found

    def _rows_of(self, labels: np.ndarray) -> np.ndarray:
        """The rows [N] of labels that were met.

        Raises:
            InputError: one was not.
        """
        places = self._known.places(labels)
        rows = np.where(places < 0, UNMET, self._known.rows[places])
        if (rows == UNMET).any():
            missing = labels[rows == UNMET]
            raise InputError(
                f"{readable(missing[0])} is no class that is known"
                f"{'' if len(missing) == 1 else f', nor are {len(missing) - 1} others'}; expected some of classes_."
            )
        return rows


def check_k(k: int, V: int) -> None:
    """Raise InputError unless k of V labels can be told."""
    if not (isinstance(k, Integral) and 1 <= k <= V):
        raise InputError(f"k is {k}; expected 1 to the number of classes that were met, {V}.")


def _unlike(logits: Tensor) -> Tensor:
    return logits.logsumexp(1) - logits.amax(1)
