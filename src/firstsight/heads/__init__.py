"""Output layers: each a thin module on ``firstsight.functional``."""

from firstsight.heads.adaptive import AdaptiveSoftmax, HebbianAdaptiveSoftmax
from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.sampled import HebbianSampledSoftmax, SampledSoftmax
from firstsight.heads.shards.sharded import HebbianShardedSoftmax, ShardedSoftmax
from firstsight.heads.softmax import Softmax

__all__ = [
    "AdaptiveSoftmax",
    "HebbianAdaptiveSoftmax",
    "HebbianSampledSoftmax",
    "HebbianShardedSoftmax",
    "HebbianSoftmax",
    "SampledSoftmax",
    "ShardedSoftmax",
    "Softmax",
]
