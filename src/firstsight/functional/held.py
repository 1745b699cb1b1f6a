"""What the losses hold while they work: for an account of memory before anything is run.

Bytes beside the arguments, at the peak of the forward pass and at that of the backward pass. Sizes: N tokens, V
classes, D features, S sampled classes.
"""

import torch

from firstsight.functional.tiled import _FEWEST_ROWS, _HELD, _ONE_PASS_TILE, _TILE


def cross_entropy_bytes(
    tokens: int, classes: int, features: int, compute_dtype: torch.dtype, device: str, *, bias: bool
) -> tuple[int, int]:
    """Of ``linear_cross_entropy``'s mean, with weights in float32.

    Args:
        tokens, classes, features: N, V, D.
        compute_dtype: of its products.
        device: "cpu" or "cuda", whose tiles differ.
        bias: whether there is one.
    """
    N, V, D, low = tokens, classes, features, compute_dtype.itemsize
    gradients = 4 * (V * D + N * D + bias * V)
    rows = min(_ONE_PASS_TILE[device][0], _HELD[device] // V)
    if rows < _FEWEST_ROWS:
        rows, columns = _TILE[device]
        tile = 4 * min(rows * columns, N * V)
        return tile + N * D * low, tile + gradients + 2 * N * D * 4
    rows, columns = min(rows, N), min(_ONE_PASS_TILE[device][1], V)
    apart = bias or low < 4  # p / its divisor, or p in float32: not where the logits lie
    forward = gradients + rows * V * low + N * D * (low + 4 * (low < 4)) + apart * rows * columns * 4
    return forward, 2 * gradients  # those of the forward pass, and times the gradient that arrives


def sampled_bytes(tokens: int, samples: int, classes: int, features: int) -> tuple[int, int]:
    """Of ``sampled_cross_entropy``, with weights in float32; arguments as N, S, V, D."""
    logits = tokens * samples
    # Forward: logits without and with what is masked, and the mask. Backward: what was kept of them, and four steps to
    # their gradient; then the rows' gradients, spread over all V by autograd: the sample's, the targets', their sum.
    return 9 * logits + 8 * samples * features, max(18 * logits, 3 * 4 * classes * features)
