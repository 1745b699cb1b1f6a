"""The powers 2^z of all logits of some tokens, held until both gradients are formed from them.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.
"""

import torch
from torch import Tensor

from firstsight.functional.tiling.logits import Logits, add_product_, in_range
from firstsight.functional.tiling.tiles import slices, start_of

# Between these, sums of powers are as exact as those of what is less by the largest logit: powers that are no float32
# any more, below 2^-126, are together less than 2^-42 of the sum, of a million classes; and there is room for what the
# powers are multiplied with.
_LEAST, _MOST = 2.0**-64, 2.0**64


class Powers:
    """Of ``rows`` tokens at a time, in tiles of ``columns`` classes."""

    def __init__(self, logits: Logits, rows: int, columns: int) -> None:
        rows, columns, V = min(rows, len(logits.h_ND)), min(columns, len(logits.w_VD)), len(logits.w_VD)
        self._logits, self._tiles = logits, list(slices(V, columns))
        self._held = logits.h_ND.new_empty(rows * V)
        self._space = logits.space(rows, columns)
        # float16 has no room for them, and a GPU would have to wait for the answer whether they were in range.
        self._as_they_are = not logits.half and not logits.h_ND.is_cuda

    def make(self, n: slice, gh_RD: Tensor, y_R: Tensor, z_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hold the powers of these tokens, 2^(z - shift), all but those of the targets, for which 0 is held.

        gh_RD: [R, D] zeros, filled with the powers times the rows; y_R: [R] the targets; z_R1: [R, 1] their logits, to
        the base 2. Gives shift, the sum of what is held, and the target's power, each [R, 1] in ``sum_dtype``.

        Of a token that the layer is sure of, the target's power is nearly the whole sum, and what would be left of its
        gradient once 1 is taken off is the rounding of a product in half precision: so it is in no product.

        Logits are hardly ever so large that their powers leave float32's range. So the first thing tried is to take no
        maximum off: two passes over all logits fewer. Where a sum says that it was needed, it is done again with it.
        """
        if self._as_they_are:
            others_R1, own_R1 = self._add_up(n, gh_RD, y_R, None), z_R1.exp2()
            sum_R1 = others_R1 + own_R1
            shares_RD = self._logits.h_ND[n].to(sum_R1.dtype) / sum_R1
            usual = ((sum_R1 > _LEAST) & (sum_R1 < _MOST)).all()
            if bool(usual & gh_RD.isfinite().all() & shares_RD.isfinite().all()):
                return torch.zeros_like(sum_R1), others_R1, own_R1
            self._as_they_are = False  # for the tokens that follow too
            gh_RD.zero_()
        return self._below_max(n, gh_RD, y_R, z_R1)

    def _below_max(self, n: slice, gh_RD: Tensor, y_R: Tensor, z_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self._logits
        tiles = [logits.make(n, v, self._memory(v, len(gh_RD))) for v in self._tiles]
        max_R1 = torch.cat([z_RC.amax(1, keepdim=True) for z_RC in tiles], 1).amax(1, keepdim=True)
        max_R1 = torch.maximum(logits.base2(max_R1, torch.empty_like(gh_RD[:, 0])), z_R1) - logits.lift
        return max_R1, self._add_up(n, gh_RD, y_R, max_R1), (z_R1 - max_R1).exp2()

    def _add_up(self, n: slice, gh_RD: Tensor, y_R: Tensor, max_R1: Tensor | None) -> Tensor:
        logits = self._logits
        sum_R1 = gh_RD.new_zeros(len(gh_RD), 1)
        for v in self._tiles:
            memory = self._memory(v, len(gh_RD))
            if max_R1 is None:
                z_RC, p_RC = logits.tile(n, v, memory, self._space.wide)
            else:
                z_RC = start_of(memory, len(gh_RD), v.stop - v.start)
                p_RC = logits.base2(z_RC, self._space.wide).sub_(max_R1)
            sum_R1 += without_targets_(p_RC.exp2_(), y_R, v, 0.0).sum(1, keepdim=True)
            add_product_(gh_RD, z_RC.copy_(p_RC), logits.w_VD[v], self._space)
        return sum_R1

    def add_to(self, gw_VD: Tensor, gb_V: Tensor | None, h_RD: Tensor, share_R1: Tensor) -> None:
        """Add the powers times the activations [R, D], each token's by its share [R, 1], to the gradients."""
        logits = self._logits
        scaled_RD, times = in_range(h_RD * share_R1, logits.compute_dtype)
        for v in self._tiles:
            p_RC = start_of(self._memory(v, len(h_RD)), len(h_RD), v.stop - v.start)
            if gb_V is not None:
                gb_V[v] += share_R1[:, 0] @ logits.widened(p_RC, self._space.wide)
            add_product_(gw_VD[v], p_RC.t(), scaled_RD, self._space, times)

    def _memory(self, v: slice, rows: int) -> Tensor:
        return self._held[v.start * rows :]


def without_targets_(x_RC: Tensor, y_R: Tensor, v: slice, value: float) -> Tensor:
    """The tile of the classes v, with ``value`` for the targets [R] that are among them."""
    at_R1 = (y_R - v.start).clamp(0, x_RC.shape[1] - 1)[:, None]
    inside_R1 = ((y_R >= v.start) & (y_R < v.stop))[:, None]
    return x_RC.scatter_(1, at_R1, x_RC.gather(1, at_R1).masked_fill_(inside_R1, value))
