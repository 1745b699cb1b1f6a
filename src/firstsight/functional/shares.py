"""How often classes occur, as a share."""

from torch import Tensor


def log_share(counts: Tensor) -> Tensor:
    """log((n + 1) / sum(n + 1)) of occurrences [V], in float64."""
    smoothed_V = (counts.cpu() if counts.device.type == "mps" else counts).double() + 1
    return (smoothed_V / smoothed_V.sum()).log()
