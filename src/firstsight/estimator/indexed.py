"""The best labels of very many without looking at all of them: an approximate index beside a classifier (faiss).

Shapes: N examples, V classes that were met, D features.
"""

from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.estimator.answers import Answers, check_k
from firstsight.serving import Lock, RowIndex


class LabelIndex:
    """A :class:`firstsight.serving.RowIndex` of a classifier's rows, asked with examples and answered in labels.

    It follows the classifier: what ``partial_fit`` has learnt since is taken in at the next question. After ``fit`` and
    ``forget``, which move rows, build another. Threads may ask at once, but not while the classifier learns. The logits
    it gives are exact; which labels it misses, ``recall`` says. Extra ``faiss``.

    Args:
        classifier: a fitted ``FirstSightClassifier``.
        X: [N, D] examples such as will be asked for, on which recall is measured; not those of ``fit``.
        k: the k of the recall.
        lists, probes: as ``RowIndex``: more probes are slower and find more.

    Attributes:
        recall: the share of the k best labels of X that it finds, measured as it was built.

    Raises:
        InputError: (a ``ValueError``) as ``RowIndex``.
        NotFittedError: of scikit-learn.
    """

    def __init__(self, classifier: Answers, X: Any, *, k: int = 10, lists: int | None = None, probes: int = 8) -> None:
        if not isinstance(classifier, Answers):
            raise InputError(f"classifier is a {type(classifier).__name__}; expected a FirstSightClassifier.")
        hidden = classifier._hidden(X)
        self._classifier, self._rows, self._lock = classifier, classifier._rows, Lock()
        self._rows.trim()
        check_k(k, self._rows.used)
        self._index = RowIndex(self._rows.head, hidden.to(self._rows.device), k=k, lists=lists, probes=probes)
        self.recall, self._removals = self._index.recall, self._rows.head.removals
        self._take_note()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label that is found of each example, [N]."""
        return self.top_k(X, 1)[0][:, 0]

    def top_k(self, X: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best labels that are found of each example, the best first; where fewer are, all rows are looked at.

        Returns:
            Labels [N, k], and their logits [N, k] float32. (A probability would take the logits of all classes: see the
            classifier's ``top_k``.)

        Raises:
            InputError: (a ``ValueError``) k is not from 1 to the number of classes that were met; or rows have moved
                since.
        """
        hidden = self._classifier._hidden(X).to(self._rows.device)
        with self._lock:
            self._follow()
            check_k(k, self._rows.used)
            logits, rows = self._index.topk(hidden, k)
            if (short := (rows < 0).any(1)).any():
                with torch.no_grad():
                    logits[short], rows[short] = self._rows.head.topk(hidden[short], k)
        return self._classifier._known.label_of_row[rows.cpu().numpy()], logits.cpu().numpy()

    def recall_of(self, X: Any, k: int) -> float:
        """The share of the k best labels of examples [N, D] that are found, by the rows as they are now."""
        hidden = self._classifier._hidden(X).to(self._rows.device)
        with self._lock:
            self._follow()
            check_k(k, self._rows.used)
            return self._index.recall_of(hidden, k)

    def _follow(self) -> None:
        """Take in what was learnt since."""
        rows, head = self._rows, self._rows.head
        if self._classifier._rows is not rows or head.removals != self._removals:
            raise InputError(
                "the classifier was fitted, or forgot a class, after the index was built, and its rows are others now; "
                "build it anew: LabelIndex(classifier, X)."
            )
        if rows.used < head.num_classes:  # spare ones, which the index has never had
            rows.trim()
        if self._classifier._known is self._known:
            return
        assert head.bias is not None
        V = len(self._counts)
        # A bias alone moves where new classes share out what they win ("cap").
        written = (head.counts[:V] != self._counts) | (head.bias.detach()[:V] != self._biases)
        self._index.update(torch.cat([written.nonzero()[:, 0].cpu(), torch.arange(V, len(head.counts))]))
        self._take_note()

    def _take_note(self) -> None:
        head = self._rows.head
        assert head.bias is not None
        self._known = self._classifier._known
        self._counts, self._biases = head.counts.clone(), head.bias.detach().clone()
