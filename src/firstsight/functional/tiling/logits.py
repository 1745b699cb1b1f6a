"""Tiles of logits, and products in float16 that neither overflow nor lose what is small.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.

float16 ends at 65504 and begins at 2^-24, so here and nowhere else: logits are made in nats, since log2(e) times as
many could overflow; powers, 1 at most, are lifted by 2^15 before they are cast, by more they could; what they are
multiplied with is brought below 2^15 by a power of two as well; and products are made and summed in float32.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from firstsight.functional.tiling.tiles import LOG2_E, slices, start_of

_LIFT = 15  # the largest power of two in float16


class Space(NamedTuple):
    """Memory that tiles take turns in; see ``start_of``."""

    wide: Tensor
    """a tile, or a product, in the dtype of sums"""
    product: Tensor
    """a product of a tile, in the compute dtype"""


class Logits:
    """Makes tiles of logits; ``shift``, which see ``extreme``, is taken off all of them."""

    def __init__(self, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, compute_dtype: torch.dtype) -> None:
        self._given_VD, self.compute_dtype = w_VD, compute_dtype
        self.w_VD = w_VD.to(compute_dtype)
        self.sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        self.half = compute_dtype == torch.float16
        self.lift = _LIFT if self.half else 0
        unit = 1.0 if self.half else LOG2_E
        self.h_ND = (h_ND.to(self.sum_dtype) * unit).to(compute_dtype)
        self.b_V, self.shift = None, h_ND.new_zeros((), dtype=self.sum_dtype)
        if b_V is not None:
            self.shift = extreme(b_V.to(self.sum_dtype), compute_dtype)
            self.b_V = (b_V.to(self.sum_dtype) - self.shift) * unit

    def make(self, n: slice, v: slice, buffer: Tensor) -> Tensor:
        """The tile [R, C] in the compute dtype, at the start of ``buffer``; ``base2`` has its unit."""
        if self.b_V is None or not self.half:
            z_RC = self.product(n, self.w_VD[v], buffer)
            return z_RC if self.b_V is None else z_RC.add_(self.b_V[v])
        h_RD, w_CD = self.h_ND[n], self.w_VD[v]
        z_RC = start_of(buffer, len(h_RD), len(w_CD))
        return torch.addmm(self.b_V[v].to(self.compute_dtype), h_RD, w_CD.t(), out=z_RC)  # rounds once

    def product(self, n: slice, w_CD: Tensor, buffer: Tensor) -> Tensor:
        """The tile without its biases; of the rows w_CD [C, D], in the compute dtype."""
        h_RD = self.h_ND[n]
        return torch.mm(h_RD, w_CD.t(), out=start_of(buffer, len(h_RD), len(w_CD)))

    def tile(self, n: slice, v: slice, buffer: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """The tile as it was made, and in ``base2``; biases are added there, where that is fast and rounds less."""
        if self.half:
            z_RC = self.make(n, v, buffer)
            return z_RC, self.base2(z_RC, wide)
        z_RC = self.product(n, self.w_VD[v], buffer)
        wide_RC = self.base2(z_RC, wide)
        return z_RC, wide_RC if self.b_V is None else wide_RC.add_(self.b_V[v])

    def base2(self, z_RC: Tensor, wide: Tensor) -> Tensor:
        """What was made, in ``sum_dtype`` and in units of log 2, at the start of ``wide`` or where it was."""
        z_RC = self.widened(z_RC, wide)
        return z_RC.mul_(LOG2_E) if self.half else z_RC

    def widened(self, x: Tensor, wide: Tensor) -> Tensor:
        """The same values in ``sum_dtype``, at the start of ``wide`` or where they were."""
        return x if x.dtype == self.sum_dtype else start_of(wide, *x.shape).copy_(x)

    def space(self, rows: int, columns: int) -> Space:
        """Memory for what is done with tiles of so many rows and columns."""
        if self.compute_dtype == self.sum_dtype:  # all is done where it is
            return Space(self.h_ND.new_empty(0), self.h_ND.new_empty(0))
        D = self.h_ND.shape[1]
        wide = self.h_ND.new_empty(max(rows * columns, columns * D, rows * D), dtype=self.sum_dtype)
        return Space(wide, self.h_ND.new_empty(max(rows, columns) * D))

    def of(self, y_N: Tensor, h_ND: Tensor, b_V: Tensor | None) -> Tensor:
        """The logit of one class of each token, [N, 1] in nats, not rounded to the compute dtype."""
        z_N1 = (h_ND.to(self.sum_dtype) * self._given_VD[y_N]).sum(1, keepdim=True)
        return z_N1 if b_V is None else z_N1 + (b_V[y_N, None] - self.shift)


class Tiles:
    """All tiles in ``base2``, each good until the next: few rows get wide tiles, so that each fills the cache."""

    def __init__(self, logits: Logits, rows: int, columns: int) -> None:
        self._logits, self._rows = logits, max(1, min(rows, len(logits.h_ND)))
        self._columns = min(rows * columns // self._rows, len(logits.w_VD))
        self._buffer = logits.h_ND.new_empty(self._rows * self._columns)
        self.space = logits.space(self._rows, self._columns)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tokens, classes, and their tile."""
        logits = self._logits
        for n in slices(len(logits.h_ND), self._rows):
            for v in slices(len(logits.w_VD), self._columns):
                yield n, v, logits.tile(n, v, self._buffer, self.space.wide)[1]

    def narrowed(self, p_RC: Tensor) -> Tensor:
        """What has become of the tile, in the compute dtype."""
        return start_of(self._buffer, *p_RC.shape).copy_(p_RC)


def extreme(b_V: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest bias where it is near the end of ``dtype``'s range, else 0.

    Less it, biases are as good: a softmax does not change. Where all classes are ruled out by the lowest finite
    number, or one is forced by the largest, units of log 2 would otherwise make it infinite.
    """
    b_V = b_V.detach()
    if not b_V.numel():
        return b_V.new_zeros(())
    top = b_V.amax()
    return torch.where(top.isfinite() & (top.abs() > torch.finfo(dtype).max / 4), top, 0.0)


def in_range(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """``x`` in ``dtype``, and what to multiply it with then: None for 1, but for float16 a power of two."""
    if dtype != torch.float16 or not x.numel():
        return x.to(dtype), None
    exponent = torch.frexp(x.abs().amax()).exponent.clamp(min=-100)  # both powers are then float32
    one = torch.ones_like(exponent, dtype=x.dtype)
    return (x * torch.ldexp(one, _LIFT - exponent)).to(dtype), torch.ldexp(one, exponent - _LIFT)


def add_product_(total: Tensor, left: Tensor, right: Tensor, space: Space, times: Tensor | None = None) -> None:
    """``total += left @ right``, the product in the operands' dtype, the sum in that of ``total``; see ``in_range``."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif left.dtype != torch.float16:
        product = torch.mm(left, right, out=start_of(space.product, *total.shape))
        total.add_(product if total.is_cuda else start_of(space.wide, *total.shape).copy_(product))
    else:  # a CPU has no such product, and one of float16 takes thirty times as long there
        wide = total.dtype
        product = torch.mm(left, right, wide) if left.is_cuda else left.to(wide) @ right.to(wide)
        total.add_(product if times is None else product.mul_(times))
