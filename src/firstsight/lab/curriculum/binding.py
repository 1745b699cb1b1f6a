"""How fast a new class is bound, counted in its presentations.

Shapes: C classes that may come, K numbers of presentations, B drawings.
"""

import math
from typing import Any

import torch
from torch import Tensor

from firstsight.lab.curriculum.draws import Ints
from firstsight.lab.runs.checkpoint import array
from firstsight.lab.system.shape import Kind

PRESENTATIONS = (1, 2, 5, 10, 20)


class Binding:
    """Accuracy on the classes of an addition 1, 2, 5, 10 and 20 presentations after they came.

    A presentation of a class is one of its drawings in a training batch. A class is measured, on all its test
    drawings and against all classes introduced by then, right after the first step by which it has been presented k
    times or more: each class at a moment of its own, and a batch that shows it twice takes it past k = 1 and k = 2 at
    once. Once all classes that came together have been measured, they make one record: the mean of their
    accuracies. So k counts what the learner was shown of the class itself, not steps, of which a class takes the
    more the more classes there are. Our decision; the paper has no such measure.

    Runs that advance at different speeds meet the same classes in the same order: hold them against each other
    addition by addition (``first``), and mind ``classes``, how many there were to choose from.

    Args:
        start: classes from the start, which are not measured.
        add: classes of an addition.
        total: C; the last addition may be smaller than the others.
    """

    def __init__(self, start: int, add: int, total: int) -> None:
        self.start, self.add, self.total = start, add, total
        self.seen_C = torch.zeros(total, dtype=torch.int64)
        self.accuracy_CK = torch.full((total, len(PRESENTATIONS)), math.nan, dtype=torch.float64)
        self.classes_CK = torch.zeros(total, len(PRESENTATIONS), dtype=torch.int64)

    def present(self, label_B: Tensor) -> Ints:
        """Take in a batch, and give the labels of the classes to be measured after its step."""
        self.seen_C += torch.bincount(label_B.cpu(), minlength=self.total)
        due_CK = (self.seen_C[:, None] >= torch.tensor(PRESENTATIONS)) & self.accuracy_CK.isnan()
        due_CK[: self.start] = False
        return due_CK.any(1).nonzero()[:, 0].numpy()

    def measured(self, labels: Ints, accuracies: Tensor, n: int) -> list[dict[str, Any]]:
        """Take in the accuracy, among n classes, of each label that ``present`` gave; give the records made whole."""
        found = []
        for label, accuracy in zip(labels.tolist(), accuracies.tolist(), strict=True):
            first = label - (label - self.start) % self.add
            together = slice(first, min(first + self.add, self.total))
            for k, presentations in enumerate(PRESENTATIONS):
                if self.seen_C[label] < presentations or not self.accuracy_CK[label, k].isnan():
                    continue
                self.accuracy_CK[label, k], self.classes_CK[label, k] = accuracy, n
                if not self.accuracy_CK[together, k].isnan().any():
                    found.append(self._record(together, k))
        return found

    def _record(self, together: slice, k: int) -> dict[str, Any]:
        return {
            "event": "bound",
            "first": together.start,
            "presentations": PRESENTATIONS[k],
            "accuracy": float(self.accuracy_CK[together, k].mean()),
            "classes": float(self.classes_CK[together, k].double().mean()),
        }

    def summary(self) -> dict[str, dict[str, Any]]:
        """By number of presentations: how many new classes were shown so often, and their mean accuracy (or None)."""
        found = {}
        for k, presentations in enumerate(PRESENTATIONS):
            accuracies = self.accuracy_CK[:, k]
            accuracies = accuracies[~accuracies.isnan()]
            mean = float(accuracies.mean()) if len(accuracies) else None
            found[str(presentations)] = {"new_classes": len(accuracies), "accuracy": mean}
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {"seen": self.seen_C, "accuracy": self.accuracy_CK, "classes": self.classes_CK}

    @property
    def shape(self) -> dict[str, Kind]:
        """What ``state`` gives, for whoever reads it from a file."""
        return {name: array(tuple(one.shape), one.dtype, "by class") for name, one in self.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state``."""
        self.seen_C, self.accuracy_CK, self.classes_CK = state["seen"], state["accuracy"], state["classes"]
