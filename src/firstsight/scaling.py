"""Vectors of any scale, made what the layer's defaults were chosen for: centred, of mean squared length 1.

One mean and one factor for all features (our decision): angles and the ratios of distances between vectors are what an
encoder was trained for, and a factor for each feature would change them.

Shapes: N examples, D features.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError

_ROWS = 8192  # that are in float64 at a time


class Scaling(NamedTuple):
    """x becomes (x / unit - mean) / length."""

    mean_D: np.ndarray
    """[D] float64, in units"""
    unit: float
    """the largest number of what it was made from, so that no square overflows"""
    length: float
    """root of the mean squared length of the centred vectors, in units; 1 where all are equal"""

    @classmethod
    def of(cls, x_ND: np.ndarray) -> Self:
        """That of these vectors, N >= 1."""
        unit = max(float(x_ND.max()), -float(x_ND.min())) or 1.0
        mean_D = sum(part.sum(0) for _, part in _in_units(x_ND, unit)) / len(x_ND)
        squares = sum(float(np.square(part - mean_D).sum()) for _, part in _in_units(x_ND, unit)) / len(x_ND)
        rounding = np.finfo(x_ND.dtype).eps ** 2 * max(1.0, float(np.square(mean_D).sum()))
        return cls(mean_D, unit, float(np.sqrt(squares)) if squares > rounding else 1.0)

    def scaled(self, x_ND: np.ndarray) -> Tensor:
        """[N, D] float32.

        Raises:
            InputError: (a ``ValueError``) a vector is so far from those of training that float32 cannot tell where.
        """
        out_ND = np.empty(x_ND.shape, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for at, part in _in_units(x_ND, self.unit):
                out_ND[at] = (part - self.mean_D) / self.length
        if not np.isfinite(out_ND).all():
            raise InputError(
                f"X holds numbers up to {np.abs(x_ND).max():.3g}, and those of training went up to {self.unit:.3g}: "
                "too far apart to be compared. Are they from the same encoder, in the same units?"
            )
        return torch.from_numpy(out_ND)


def _in_units(x_ND: np.ndarray, unit: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows at a time, in float64."""
    for start in range(0, len(x_ND), _ROWS):
        at = slice(start, start + _ROWS)
        with np.errstate(over="ignore"):
            yield at, x_ND[at].astype(np.float64) / unit
