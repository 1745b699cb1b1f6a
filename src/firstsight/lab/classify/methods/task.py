"""The prepared data as tensors, scaled once for all methods.

Shapes: N training examples, D features, V old classes, U new ones, Q queries of new classes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from firstsight.lab.classify.data.prepared import Prepared
from firstsight.scaling import Scaling


@dataclass(frozen=True)
class Part:
    """What one part, "valid" or "test", asks.

    Attributes:
        shown_h: [U, 10, D] examples of the new classes, in the order in which they are shown.
        old_h, old_y: [N_old, D] and [N_old] of old classes.
        new_h, new_y: [Q, D] and [Q] of new classes, which are V to V + U - 1.
    """

    shown_h: Tensor
    old_h: Tensor
    old_y: Tensor
    new_h: Tensor
    new_y: Tensor


class Task:
    """What methods are trained on and asked.

    All vectors are centred and divided by one number, so that the mean squared length of the training vectors is 1 and
    the same rates suit vectors of any unit: as ``FirstSightClassifier`` does it, whose settings are thus the trial's.

    Attributes:
        scaling: what does it, made of the training vectors.
        train_h, train_y: [N, D] float32 and [N] int64.
        num_classes: V.
        counts: [V] int64, how often each class occurs in training.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, split = prepared, prepared.split
        hidden = np.asarray(prepared.hidden[split.train], dtype=np.float32)
        self.scaling = Scaling.of(hidden)
        self.train_h, self.train_y = self.scaling.scaled(hidden), _labels(prepared, split.train)
        self.num_classes = len(split.classes)
        self.counts = torch.bincount(self.train_y, minlength=self.num_classes)

    @cached_property
    def valid(self) -> Part:
        """To choose on."""
        split = self._prepared.split
        return self._part(split.shown_valid, split.valid, split.asked_valid)

    @cached_property
    def test(self) -> Part:
        """To judge on."""
        split = self._prepared.split
        return self._part(split.shown_test, split.test, split.asked_test)

    def part(self, name: str) -> Part:
        """By its name."""
        return {"valid": lambda: self.valid, "test": lambda: self.test}[name]()

    def _part(self, shown: np.ndarray, old: np.ndarray, new: np.ndarray) -> Part:
        return Part(
            self._rows(shown.reshape(-1)).view(*shown.shape, -1),
            self._rows(old),
            _labels(self._prepared, old),
            self._rows(new),
            _labels(self._prepared, new),
        )

    def _rows(self, rows: np.ndarray) -> Tensor:
        return self.scaling.scaled(np.asarray(self._prepared.hidden[rows], dtype=np.float32))


def _labels(prepared: Prepared, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(prepared.split.y_of(rows), dtype=np.int64))


def labels_of(shown_h: Tensor, num_classes: int) -> Tensor:
    """[U k] int64: which classes the examples [U, k, D] of new classes are, flattened, after ``num_classes`` old."""
    U, k = shown_h.shape[:2]
    return torch.arange(num_classes, num_classes + U).repeat_interleave(k)
