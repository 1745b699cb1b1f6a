r"""What a write puts into the rows of its classes: the paper's rule, and others, each under a name of its own.

Shapes: U classes written, D features. :math:`\theta` is a class's row, :math:`\overline{h}` the mean of its
activations in the batch, n their number, c its count before the batch, :math:`\lambda = \max(1/c, \gamma)`; m and
:math:`\Sigma` are the running mean and covariance of the activations of all classes; :math:`\hat x = x / |x|`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import hebbian_rate, hebbian_write_
from firstsight.heads.exchange import Sums

# Of the running moments: a step is forgotten after about a hundred others, for the model that makes them changes.
RATE = 0.01
# Added to the covariance's diagonal, as a share of its mean, so that it can be inverted from the first step on.
RIDGE = 0.01
# In units of the last place: differences of running means that are as small as this are rounding.
ROUNDING = 32


@dataclass(frozen=True)
class Rule:
    """How a row moves; all False is the paper's rule."""

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

    @property
    def needs_moments(self) -> bool:
        """Whether the rule uses m and the covariance."""
        return self.centered or self.whitened or self.calibrated


RULES = {
    "paper": Rule(),
    "scaled": Rule(scaled=True),
    "direction": Rule(scaled=True, kept=True),
    "centered": Rule(centered=True, scaled=True, kept=True),
    "whitened": Rule(whitened=True, scaled=True, kept=True),
    "additive": Rule(additive=True),
    "shrinkage": Rule(whitened=True, shrinking=True, calibrated=True),
}


def find_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RULES:
        raise InputError(f"rule is {name!r}; expected one of {', '.join(RULES)}.")
    return RULES[name]


def check_prior(name: str, prior_count: float, bias: bool) -> None:
    """Raise InputError unless ``prior_count`` is above 0, and there is a bias where the rule moves it."""
    if not prior_count > 0:
        raise InputError(f"prior_count is {prior_count}; expected how many examples the prior is worth, above 0.")
    if RULES[name].calibrated and not bias:
        raise InputError(f"the rule {name} moves the bias of what it writes; make the layer with bias=True.")


class Moments:
    """Running mean and covariance of all activations, on a buffer [1 + D, 1 + D] that is changed in place.

    The buffer holds the exponentially weighted mean of (1, h)(1, h)^T, started at 0: its corner is the weight of what
    it has seen, 1 in the long run, and dividing by it leaves no trace of the start.
    """

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer

    def take_in_(self, sums: Sums) -> Sums:
        """Take in what ``with_second_moment`` made of a step, and give back the class sums alone."""
        classes, sums_UD, occurrences = sums
        D = int((classes < 0).sum())  # 0 when another rank skipped the step
        if tokens := int(occurrences.sum()):
            self._buffer *= 1 - RATE
            self._buffer[0, 0] += RATE
            self._buffer[0, 1:] += RATE / tokens * sums_UD[D:].sum(0)
            self._buffer[1:, 1:] += RATE / tokens * sums_UD[:D]
        return classes[D:], sums_UD[D:], occurrences[D:]

    def mean(self) -> Tensor:
        """[D]."""
        return self._buffer[0, 1:] / self._buffer[0, 0]

    def covariance(self) -> Tensor:
        """[D, D], with a ridge on its diagonal."""
        mean_D = self.mean()
        covariance_DD = self._buffer[1:, 1:] / self._buffer[0, 0] - torch.outer(mean_D, mean_D)
        diagonal_D, info = covariance_DD.diagonal(), torch.finfo(covariance_DD.dtype)
        # Of one activation alone the difference is rounding, and may have no inverse.
        diagonal_D += (RIDGE * diagonal_D.mean()).clamp(min=ROUNDING * info.eps * mean_D.square().mean()) + info.tiny
        return covariance_DD


def with_second_moment(sums: Sums, hidden_ND: Tensor) -> Sums:
    """Class sums, and the sum of all h h^T as rows of D classes of its own, -D to -1.

    So it is merged over micro-batches and exchanged between processes like everything else.
    """
    with torch.autocast(hidden_ND.device.type, enabled=False):
        second_DD = hidden_ND.t() @ hidden_ND
    own_D = torch.arange(-len(second_DD), 0, device=second_DD.device)
    return (
        torch.cat([own_D, sums[0]]),
        torch.cat([second_DD, sums[1]]),
        torch.cat([torch.zeros_like(own_D), sums[2]]),
    )


def move_rows(
    rule: Rule, rows_UD: Tensor, means_UD: Tensor, rate_U: Tensor, moments: Moments | None
) -> tuple[Tensor, Tensor | None]:
    """The rows after the write, and what their biases change by (None: nothing).

    A row or a mean of length 0 has no direction: rules that scale leave such a row as it is (our decision).
    """
    x_UD, rate_U1, length_U1 = means_UD, rate_U[:, None], rows_UD.norm(dim=1, keepdim=True)
    if moments is not None and (rule.centered or rule.whitened):
        x_UD = means_UD - moments.mean()
        # Where a mean is m itself, as in a layer's first write of one class, what is left is rounding: no direction.
        rounding_U1 = ROUNDING * torch.finfo(x_UD.dtype).eps * means_UD.norm(dim=1, keepdim=True)
        x_UD = x_UD.masked_fill(x_UD.norm(dim=1, keepdim=True) <= rounding_U1, 0)
        if rule.whitened:
            x_UD = torch.linalg.solve(moments.covariance(), x_UD.t()).t()
    if rule.scaled:
        x_UD = _stretched(x_UD, length_U1, rows_UD)
    new_UD = rows_UD + rate_U1 * x_UD if rule.additive else torch.lerp(rows_UD, x_UD, rate_U1)
    if rule.kept:
        new_UD = _stretched(new_UD, length_U1, rows_UD)
    if moments is None or not rule.calibrated:
        return new_UD, None
    change_UD = new_UD - rows_UD
    # log E exp(theta.h) = theta.m + theta' Sigma theta / 2 for normally distributed h; the bias takes up its change.
    share_U = change_UD @ moments.mean() + 0.5 * (change_UD * ((new_UD + rows_UD) @ moments.covariance())).sum(1)
    return new_UD, -share_U


def _stretched(x_UD: Tensor, length_U1: Tensor, otherwise_UD: Tensor) -> Tensor:
    own_U1 = x_UD.norm(dim=1, keepdim=True)
    return torch.where(own_U1 < torch.finfo(x_UD.dtype).tiny, otherwise_UD, x_UD * (length_U1 / own_U1))


@torch.no_grad()
def write_(
    rule: Rule,
    weight: Tensor,
    bias: Tensor | None,
    counts: Tensor,
    means: tuple[Tensor, Tensor, Tensor],
    moments: Moments | None,
    *,
    T: float,
    gamma: float,
    prior_count: float,
) -> None:
    """Write a batch's class means into ``weight`` [V, D], ``bias`` [V] and ``counts`` [V], in place.

    Args:
        means: classes [U] int64, their mean activations [U, D], how many activations each is of [U].
        T, gamma: as :func:`firstsight.functional.hebbian_update_`.
        prior_count: kappa, of rules that shrink.
    """
    classes_U, means_UD, occurrences_U = means
    if rule == Rule():
        hebbian_write_(weight, counts, classes_U, means_UD, occurrences_U, T=T, gamma=gamma)
        return
    before_U = counts[classes_U]
    counts[classes_U] = before_U + occurrences_U
    at_U = before_U < T
    classes_U, means_UD, occurrences_U, before_U = (x[at_U] for x in (classes_U, means_UD, occurrences_U, before_U))
    rows_UD = weight[classes_U].to(means_UD.dtype)
    if rule.shrinking:
        n_U = occurrences_U.to(means_UD.dtype)
        rate_U = n_U / (prior_count + before_U - 1 + n_U)
    else:
        rate_U = hebbian_rate(before_U, T=T, gamma=gamma, dtype=means_UD.dtype)
    rows_UD, change_U = move_rows(rule, rows_UD, means_UD, rate_U, moments)
    weight[classes_U] = rows_UD.to(weight.dtype)
    if bias is not None and change_U is not None:
        bias[classes_U] += change_U.to(bias.dtype)
