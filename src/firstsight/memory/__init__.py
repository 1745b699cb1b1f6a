"""Memories at test time over a stream of (hidden, target) pairs: neural cache, MbPA, and their mixture."""

from firstsight.memory.cache import CacheGrid, NeuralCache
from firstsight.memory.mbpa import MbPA, MbPAGrid
from firstsight.memory.mixture import mix, recall, score_stream
from firstsight.memory.weights import fit_weights

__all__ = ["CacheGrid", "MbPA", "MbPAGrid", "NeuralCache", "fit_weights", "mix", "recall", "score_stream"]
