"""The arithmetic of the output layer as pure tensor functions: the write and the loss."""

from firstsight.functional.checks import IGNORE_INDEX
from firstsight.functional.cross_entropy import linear_cross_entropy
from firstsight.functional.inner_step import inner_step_
from firstsight.functional.write import class_means, class_sums, hebbian_rate, hebbian_update_

__all__ = [
    "IGNORE_INDEX",
    "class_means",
    "class_sums",
    "hebbian_rate",
    "hebbian_update_",
    "inner_step_",
    "linear_cross_entropy",
]
