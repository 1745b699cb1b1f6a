"""Which rows are trained on, chosen on and judged on, and which classes come later."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Rows of old classes, and of the new ones of each part."""

    labels: list[str]
    classes: list[str]
    new_valid: list[str]
    new_test: list[str]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    shown_valid: np.ndarray
    shown_test: np.ndarray
    asked_valid: np.ndarray
    asked_test: np.ndarray

    def y_of(self, rows: np.ndarray) -> np.ndarray:
        """Stand-in."""
        V = len(self.classes)
        index = {name: i for i, name in enumerate(self.classes)}
        for new in (self.new_valid, self.new_test):
            index |= {name: V + i for i, name in enumerate(new)}
        return np.array([index[self.labels[row]] for row in rows], dtype=np.int64)
