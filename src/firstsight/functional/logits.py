"""Tiles of logits, and products in float16 that neither overflow nor lose what is small.

Shapes: N tokens, V classes, D features; a tile is R rows (tokens) by C columns (classes) of the logits.

float16 ends at 65504 and begins at 2^-24, so here and nowhere else: logits are made in nats, since log2(e) times as
many could overflow; powers, 1 at most, are lifted by 2^15 before they are cast, by more they could; what they are
multiplied with is brought below 2^15 by a power of two as well; and products are made and summed in float32.
"""

import torch
from torch import Tensor

from firstsight.functional.tiles import LOG2_E

_LIFT = 15  # the largest power of two in float16


class Logits:
    """Makes tiles of logits; ``shift``, which see ``extreme``, is taken off all of them."""

    def __init__(self, h_ND: Tensor, w_VD: Tensor, b_V: Tensor | None, compute_dtype: torch.dtype) -> None:
        self.w_VD, self.compute_dtype = w_VD, compute_dtype
        self.sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        self.half = compute_dtype == torch.float16
        self.lift = _LIFT if self.half else 0
        unit = 1.0 if self.half else LOG2_E
        self.h_ND = (h_ND.to(self.sum_dtype) * unit).to(compute_dtype)
        self.b_V, self.shift = None, h_ND.new_zeros((), dtype=self.sum_dtype)
        if b_V is not None:
            self.shift = extreme(b_V.to(self.sum_dtype), compute_dtype)
            self.b_V = (b_V.to(self.sum_dtype) - self.shift) * unit

    def weight(self, v: slice) -> Tensor:
        """[C, D] in the compute dtype."""
        return self.w_VD[v].to(self.compute_dtype)

    def make(self, n: slice, v: slice, buffer: Tensor) -> Tensor:
        """The tile [R, C] in the compute dtype, at the start of ``buffer``; ``base2`` has its unit."""
        h_RD, w_CD = self.h_ND[n], self.weight(v)
        z_RC = buffer[: len(h_RD) * len(w_CD)].view(len(h_RD), len(w_CD))
        if self.b_V is None or not self.half:
            torch.mm(h_RD, w_CD.t(), out=z_RC)
            return z_RC if self.b_V is None else z_RC.add_(self.b_V[v])
        return torch.addmm(self.b_V[v].to(self.compute_dtype), h_RD, w_CD.t(), out=z_RC)  # rounds once

    def base2(self, z: Tensor) -> Tensor:
        """What was made, in ``sum_dtype`` and in units of log 2; maybe the same memory."""
        z = z.to(self.sum_dtype)
        return z.mul_(LOG2_E) if self.half else z

    def of(self, y_N: Tensor, h_ND: Tensor, b_V: Tensor | None) -> Tensor:
        """The logit of one class of each token, [N] in nats."""
        z_N = (h_ND.to(self.sum_dtype) * self.w_VD[y_N]).sum(1)
        return z_N if b_V is None else z_N + (b_V[y_N] - self.shift)


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


def add_product_(total: Tensor, left: Tensor, right: Tensor, times: Tensor | None = None) -> None:
    """``total += left @ right``, the product in the operands' dtype, the sum in that of ``total``; see ``in_range``."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif left.dtype != torch.float16:
        total.add_(left @ right)
    else:  # a CPU has no such product, and one of float16 takes thirty times as long there
        wide = total.dtype
        product = torch.mm(left, right, wide) if left.is_cuda else left.to(wide) @ right.to(wide)
        total.add_(product if times is None else product.mul_(times))
