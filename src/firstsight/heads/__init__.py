"""Output layers: each a thin module on ``firstsight.functional``."""

from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.softmax import Softmax

__all__ = ["HebbianSoftmax", "Softmax"]
