"""How large the tiles of the loss are, and what memory that comes to.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.
"""

import math

import torch

# Rows and columns of a tile, and how many bytes of logits one pass may hold. On a CPU a tile of two passes has to stay
# in the cache, and the held logits near it; the GPU's numbers are a first guess, for benchmarks/gpu.py to settle.
TILE = {"cpu": (1120, 512), "cuda": (8192, 8192)}
ONE_PASS_TILE = {"cpu": (400, 4096), "cuda": (2048, 65536)}
HELD = {"cpu": 2**25 + 2**23, "cuda": 2**31}
_FEWEST_ROWS = 128


def rows_at_once(tokens: int, num_classes: int, compute_dtype: torch.dtype, device: str) -> int:
    """How many tokens' logits one pass holds at once; 0 where two passes are better. ``device`` is "cpu" or "cuda"."""
    rows = min(ONE_PASS_TILE[device][0], HELD[device] // (num_classes * compute_dtype.itemsize))
    if rows < _FEWEST_ROWS:
        return 0
    parts = max(1, math.ceil(tokens / rows))
    return max(1, math.ceil(tokens / parts))  # all alike: each part goes through the whole weight


def loss_bytes(
    tokens: int,
    num_classes: int,
    features: int,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> int:
    """Bytes that the mean loss and its backward pass need at their peak, the two gradients included, no bias.

    tokens: of one call; ``device``: "cpu" or "cuda"; ``dtype``: that of weight and activations, which are not counted.
    Small things of one value a token or a class are left out, and the copies that oneDNN makes for bfloat16 on CPUs
    with AVX-512 but no products in bfloat16.
    """
    N, V, D = tokens, num_classes, features
    wide = torch.promote_types(compute_dtype, torch.float32)
    rows, columns = rows_at_once(N, V, compute_dtype, device), ONE_PASS_TILE[device][1]
    held = rows * V
    if not rows:
        rows, columns = min(TILE[device][0], N), TILE[device][0] * TILE[device][1] // min(TILE[device][0], N)
        held = rows * min(columns, V)
    columns = min(columns, V)
    gradients, copies = (N + V) * D * wide.itemsize, (N + V * (compute_dtype != dtype)) * D * compute_dtype.itemsize
    tiles = held * compute_dtype.itemsize
    if compute_dtype != wide:
        tiles += max(rows * columns, columns * D, rows * D) * wide.itemsize
        tiles += max(rows, columns) * D * compute_dtype.itemsize
    return gradients + copies + tiles


def sampled_bytes(tokens: int, samples: int, classes: int, features: int, *, sparse: bool = False) -> tuple[int, int]:
    """Bytes that ``sampled_cross_entropy`` needs at the peaks of its forward and of its backward pass.

    With weights in float32; of N tokens, S samples, V classes, D features.
    """
    logits = tokens * samples
    # Forward: logits without and with what is masked, and the mask; rows in use, and the sample's. Backward: what was
    # kept of them, and four steps to their gradient; then that of the rows in use, and, dense, the same among all V.
    rows = 4 * min(classes, samples + tokens) * features
    return 9 * logits + 2 * rows, max(18 * logits + 2 * rows, 3 * rows + (0 if sparse else 2 * 4 * classes * features))
