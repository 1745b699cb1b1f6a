"""Output layers: each a thin module on ``engram.functional``."""

from engram.heads.hebbian import HebbianSoftmax
from engram.heads.softmax import Softmax

__all__ = ["HebbianSoftmax", "Softmax"]
