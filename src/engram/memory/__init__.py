"""Memories at test time over a stream of (hidden, target) pairs: neural cache, MbPA, and their mixture."""

from engram.memory.cache import CacheGrid, NeuralCache
from engram.memory.mbpa import MbPA, MbPAGrid
from engram.memory.mixture import mix, score_stream

__all__ = ["CacheGrid", "MbPA", "MbPAGrid", "NeuralCache", "mix", "score_stream"]
