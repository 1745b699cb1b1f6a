"""firstsight: classifiers that remember a class from its first example."""

from firstsight import functional
from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.heads import (
    AdaptiveSoftmax,
    HebbianAdaptiveSoftmax,
    HebbianSampledSoftmax,
    HebbianSoftmax,
    SampledSoftmax,
    Softmax,
)
from firstsight.heads.adopted import attach
from firstsight.memory import MbPA, NeuralCache, score_stream

__all__ = [
    "AdaptiveSoftmax",
    "HebbianAdaptiveSoftmax",
    "HebbianSampledSoftmax",
    "HebbianSoftmax",
    "InputError",
    "MbPA",
    "NeuralCache",
    "SampledSoftmax",
    "Softmax",
    "__version__",
    "attach",
    "functional",
    "score_stream",
]
