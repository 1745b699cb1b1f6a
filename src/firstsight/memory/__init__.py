"""Memories at test time over a stream of (hidden, target) pairs: neural cache, MbPA, kNN-LM, and their mixture."""

from firstsight.memory.cache import CacheGrid, NeuralCache
from firstsight.memory.datastore import Datastore, DatastoreWriter
from firstsight.memory.knn import KNN, KNNGrid
from firstsight.memory.mbpa import MbPA, MbPAGrid
from firstsight.memory.mixture import mix, recall, score_stream
from firstsight.memory.unbounded import UnboundedCache, UnboundedCacheGrid
from firstsight.memory.weights import fit_weights

__all__ = [
    "KNN",
    "CacheGrid",
    "Datastore",
    "DatastoreWriter",
    "KNNGrid",
    "MbPA",
    "MbPAGrid",
    "NeuralCache",
    "UnboundedCache",
    "UnboundedCacheGrid",
    "fit_weights",
    "mix",
    "recall",
    "score_stream",
]
