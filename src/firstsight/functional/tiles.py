"""What the tiled arithmetic of the loss and of the memories shares."""

import math
from collections.abc import Iterator

from torch import Tensor

LOG2_E, LN_2 = 1 / math.log(2), math.log(2)


def slices(length: int, size: int) -> Iterator[slice]:
    """``range(length)`` in parts of ``size``."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def kind(tensor: Tensor) -> str:
    """Which of our tile sizes fits."""
    return "cpu" if tensor.device.type == "cpu" else "cuda"
