"""engram: classifiers that remember a class from its first example."""

from engram import functional
from engram._version import __version__
from engram.adopt import attach
from engram.errors import InputError
from engram.heads import HebbianSoftmax, Softmax
from engram.memory import MbPA, NeuralCache, score_stream

__all__ = [
    "HebbianSoftmax",
    "InputError",
    "MbPA",
    "NeuralCache",
    "Softmax",
    "__version__",
    "attach",
    "functional",
    "score_stream",
]
