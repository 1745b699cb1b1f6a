"""The prepared data as tensors, scaled once for all methods.

Shapes: N training examples, D features, V old classes, U new ones, Q queries of new classes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from firstsight.lab.classify.data.prepared import Prepared


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

    All vectors are divided by one number, the root mean square of the training vectors' lengths, so that the same rates
    suit vectors of any unit. Nothing is done to single features, and the mean stays: it is how frozen vectors go into
    an ``nn.Linear``, and whoever pastes the winner has no statistics to carry along but this number (our decision).

    Attributes:
        scale: that number; 1 where all training vectors are zero.
        train_h, train_y: [N, D] float32 and [N] int64.
        num_classes: V.
        counts: [V] int64, how often each class occurs in training.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, split = prepared, prepared.split
        hidden = np.asarray(prepared.hidden[split.train], dtype=np.float32)
        self.scale = float(np.sqrt(np.square(hidden, dtype=np.float64).sum(1).mean())) or 1.0
        self.train_h, self.train_y = torch.from_numpy(hidden / np.float32(self.scale)), _labels(prepared, split.train)
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
        return torch.from_numpy(np.asarray(self._prepared.hidden[rows], dtype=np.float32) / np.float32(self.scale))


def _labels(prepared: Prepared, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(prepared.split.y_of(rows), dtype=np.int64))


def labels_of(shown_h: Tensor, num_classes: int) -> Tensor:
    """[U k] int64: which classes the examples [U, k, D] of new classes are, flattened, after ``num_classes`` old."""
    U, k = shown_h.shape[:2]
    return torch.arange(num_classes, num_classes + U).repeat_interleave(k)
