"""Output layers: each a thin module on ``firstsight.functional``."""

from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.sampled import HebbianSampledSoftmax, SampledSoftmax
from firstsight.heads.softmax import Softmax

__all__ = ["HebbianSampledSoftmax", "HebbianSoftmax", "SampledSoftmax", "Softmax"]
