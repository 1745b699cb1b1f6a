"""Output layers: each a thin module on ``firstsight.functional``."""

from firstsight.heads.adaptive import AdaptiveSoftmax, HebbianAdaptiveSoftmax
from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.sampled import HebbianSampledSoftmax, SampledSoftmax
from firstsight.heads.softmax import Softmax

__all__ = [
    "AdaptiveSoftmax",
    "HebbianAdaptiveSoftmax",
    "HebbianSampledSoftmax",
    "HebbianSoftmax",
    "SampledSoftmax",
    "Softmax",
]
