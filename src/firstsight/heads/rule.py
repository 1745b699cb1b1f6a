r"""What a write puts into the rows of its classes: the paper's rule, the parts that other rules are put together of.

Shapes: U classes written, N activations, D features. :math:`\theta` is a class's row, :math:`\overline{h}` the mean of
its activations in the batch, n their number, c its count before the batch, :math:`\lambda = \max(1/c, \gamma)`; m and
:math:`\Sigma` are the running mean and covariance of the activations of all classes; :math:`\hat x = x / |x|`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from firstsight.functional import hebbian_rate
from firstsight.functional.write import Move
from firstsight.heads.kept.moments import ROUNDING, Moments, Needs

# Classes [U] -> the mean of their activations [U, D], each weighted by its surprise 1 - p, and the mean surprise [U].
Gated: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rule:
    r"""How a row moves; with all parts False it is the paper's rule, :math:`\lambda \overline{h} + (1-\lambda)\theta`.

    A rule that these parts do not make is a subclass: it overrides ``needs``, ``rate``, ``prepare`` or ``move``, and
    gets a name in ``rules.RULES``. Counts, T, what is pending, the exchange between processes and the saved state are
    the head's and the same for all.
    """

    T: float = 100
    """of a head that is not told: what did best on our corpora (docs/when.md)"""
    gamma: float = 0.02
    """the same"""
    centered: bool = False
    r"""write :math:`\overline{h} - m`: what sets the class's activations apart from all others"""
    whitened: bool = False
    r"""write :math:`\Sigma^{-1}(\overline{h} - m)`: as centered, with common directions counted for less"""
    scaled: bool = False
    """stretch what is written to the length of the row"""
    additive: bool = False
    r"""add it to the row, :math:`\theta + \lambda x`, instead of :math:`\lambda x + (1 - \lambda) \theta`"""
    kept: bool = False
    """give the row back the length it had: only its direction moves"""
    shrinking: bool = False
    r"""the rate is :math:`n / (\kappa + c - 1 + n)`, the posterior mean's under a prior worth kappa examples"""
    calibrated: bool = False
    """move the class's bias so that its mean share of the probability stays what it was"""
    sighted: bool = False
    """a class that comes to a trained layer gets row and bias from ``functional.first_sight``"""

    @property
    def needs(self) -> Needs:
        """What it uses of the activations' moments."""
        if self.sighted:
            return "cross"
        if self.whitened or self.calibrated:
            return "covariance"
        return "mean" if self.centered else "nothing"

    @property
    def moves_bias(self) -> bool:
        """Whether the layer has to have a bias."""
        return self.calibrated

    def rate(
        self, before_U: Tensor, occurrences_U: Tensor, *, gamma: float, prior_count: float, dtype: torch.dtype
    ) -> Tensor:
        """The rate [U] of each class's move.

        Args:
            before_U: [U] int64, c, at least 1.
            occurrences_U: [U] int64, n.
            gamma: smallest rate.
            prior_count: kappa, of rules that shrink.
            dtype: of the result.
        """
        if not self.shrinking:
            return hebbian_rate(before_U, T=math.inf, gamma=gamma, dtype=dtype)
        n_U = occurrences_U.to(dtype)
        return n_U / (prior_count + before_U - 1 + n_U)

    def prepare(self, hidden_ND: Tensor, moments: Moments | None) -> Tensor:
        """What is written of activations [N, D], or of their means, before a row is looked at: linear in them."""
        if moments is None or not (self.centered or self.whitened):
            return hidden_ND
        x_ND = hidden_ND - moments.mean().to(hidden_ND)
        # Where a mean is m itself, as in a layer's first write of one class, what is left is rounding: no direction.
        rounding_N1 = ROUNDING * torch.finfo(x_ND.dtype).eps * hidden_ND.norm(dim=1, keepdim=True)
        x_ND = x_ND.masked_fill(x_ND.norm(dim=1, keepdim=True) <= rounding_N1, 0)
        if self.whitened:
            x_ND = torch.linalg.solve(moments.covariance().to(x_ND), x_ND.t()).t()
        return x_ND

    def moving(self, *, gamma: float, prior_count: float, moments: Moments | None, gated: Gated | None = None, strength: float = 1.0) -> Move:
        """The whole write of a step, for ``functional.write.move_rows_``; arguments as of its parts.

        ``gated``: of the objective softmax, what to write in place of the means, and for how much that counts.
        """

        def moved(
            classes_U: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, occurrences_U: Tensor
        ) -> tuple[Tensor, Tensor | None]:
            settings = {"gamma": gamma, "prior_count": prior_count}
            rate_U = self.rate(before_U, occurrences_U, **settings, dtype=means_UD.dtype)
            rate_U = rate_U * strength
            if gated is not None:
                means_UD, share_U = gated(classes_U)
                rate_U = rate_U * share_U
            return self.move(rows_UD, self.prepare(means_UD, moments), rate_U, moments)

        return moved

    def move(
        self, rows_UD: Tensor, x_UD: Tensor, rate_U: Tensor, moments: Moments | None
    ) -> tuple[Tensor, Tensor | None]:
        """The rows after the write of ``prepare``'s x, and what their biases change by (None: nothing).

        A row or an x of length 0 has no direction: rules that scale leave such a row as it is (our decision).
        """
        rate_U1, length_U1 = rate_U[:, None], rows_UD.norm(dim=1, keepdim=True)
        if self.scaled:
            x_UD = _stretched(x_UD, length_U1, rows_UD)
        new_UD = rows_UD + rate_U1 * x_UD if self.additive else torch.lerp(rows_UD, x_UD, rate_U1)
        if self.kept:
            # Of half a row and half its opposite, which is usual where there is one feature, rounding is left.
            least_U1 = ROUNDING * torch.finfo(new_UD.dtype).eps * length_U1
            new_UD = _stretched(new_UD, length_U1, rows_UD, least_U1)
        if moments is None or not self.calibrated:
            return new_UD, None
        change_UD = new_UD - rows_UD
        # log E exp(theta.h) = theta.m + theta' Sigma theta / 2 for normally distributed h; the bias takes it up.
        share_U = change_UD @ moments.mean()
        share_U = share_U + 0.5 * (change_UD * ((new_UD + rows_UD) @ moments.covariance())).sum(1)
        return new_UD, -share_U


def sparing(move: Move, spared: range) -> Move:
    """``move``, but the rows and biases of these classes stay as they are."""

    def moved(
        classes_U: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, occurrences_U: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        new_UD, change_U = move(classes_U, rows_UD, means_UD, before_U, occurrences_U)
        stays_U = (classes_U >= spared.start) & (classes_U < spared.stop)
        change_U = None if change_U is None else change_U.masked_fill(stays_U, 0)
        return torch.where(stays_U[:, None], rows_UD, new_UD), change_U

    return moved


def _stretched(x_UD: Tensor, length_U1: Tensor, otherwise_UD: Tensor, least_U1: Tensor | float = 0.0) -> Tensor:
    own_U1 = x_UD.norm(dim=1, keepdim=True)
    none_U1 = (own_U1 < torch.finfo(x_UD.dtype).tiny) | (own_U1 <= least_U1)
    return torch.where(none_U1, otherwise_UD, x_UD * (length_U1 / own_U1))
