"""What the tiled arithmetic of the loss and of the memories shares."""

import math
from collections.abc import Iterator

from torch import Tensor

LOG2_E, LN_2 = 1 / math.log(2), math.log(2)


def slices(length: int, size: int) -> Iterator[slice]:
    """``range(length)`` in parts of ``size``."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def start_of(memory: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape at the start of ``memory`` [m].

    Tiles are made in memory that was asked for once: a large block that is freed goes back to the system, and to map
    the next one page by page has cost more than the arithmetic in it.
    """
    return memory[: math.prod(shape)].view(shape)


def kind(tensor: Tensor) -> str:
    """Which of our tile sizes fits."""
    return "cpu" if tensor.device.type == "cpu" else "cuda"
