r"""What a write puts into the rows of its classes: the paper's rule, and others, each under a name of its own.

Shapes: U classes written, D features. :math:`\theta` is a class's row, :math:`\overline{h}` the mean of its
activations in the batch, n their number, c its count before the batch, :math:`\lambda = \max(1/c, \gamma)`; m and
:math:`\Sigma` are the running mean and covariance of the activations of all classes; :math:`\hat x = x / |x|`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engram.errors import InputError
from engram.functional import hebbian_rate, hebbian_write_
from engram.heads._exchange import Sums

# Of a running mean over steps: an activation is forgotten after about a hundred, for the model that makes them changes.
SLOWEST = 0.01
# Added to the covariance's diagonal, as a share of its mean, so that it can be inverted from the first step on.
RIDGE = 0.01


@dataclass(frozen=True)
class Rule:
    """How a row moves. The parts are applied in this order; all False is the paper's rule."""

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
    "paper-calibrated": Rule(calibrated=True),
    "centered-calibrated": Rule(centered=True, scaled=True, kept=True, calibrated=True),
    "whitened-calibrated": Rule(whitened=True, scaled=True, kept=True, calibrated=True),
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


@dataclass
class Moments:
    """Running mean m [D] and second moment E[h h^T] [D, D] of all activations, and the steps they are of, a scalar.

    The tensors are changed in place, so that they can be a module's buffers.
    """

    mean: Tensor
    second: Tensor
    steps: Tensor

    def take_in_(self, sums: Sums) -> Sums:
        """Take in what ``with_second_moment`` made of a step, and give back the class sums alone."""
        classes, sums_UD, occurrences = sums
        D = int((classes < 0).sum())  # 0 when another rank skipped the step
        tokens = int(occurrences.sum())
        if tokens:
            self.steps += 1
            rate = max(1 / int(self.steps), SLOWEST)
            self.mean.lerp_(sums_UD[D:].sum(0) / tokens, rate)
            self.second.lerp_(sums_UD[:D] / tokens, rate)
        return classes[D:], sums_UD[D:], occurrences[D:]

    def covariance(self) -> Tensor:
        """[D, D], with the ridge on its diagonal."""
        covariance_DD = self.second - torch.outer(self.mean, self.mean)
        diagonal_D = covariance_DD.diagonal()
        diagonal_D += RIDGE * diagonal_D.mean() + torch.finfo(diagonal_D.dtype).tiny
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
    rate_U1 = rate_U[:, None]
    covariance_DD = moments.covariance() if moments is not None and rule.needs_moments else None
    x_UD = means_UD
    if rule.centered and moments is not None:
        x_UD = means_UD - moments.mean
    if rule.whitened and moments is not None and covariance_DD is not None:
        x_UD = torch.linalg.solve(covariance_DD, (means_UD - moments.mean).t()).t()
    length_U1 = rows_UD.norm(dim=1, keepdim=True)
    if rule.scaled:
        x_UD = _stretched(x_UD, length_U1, rows_UD)
    new_UD = rows_UD + rate_U1 * x_UD if rule.additive else torch.lerp(rows_UD, x_UD, rate_U1)
    if rule.kept:
        new_UD = _stretched(new_UD, length_U1, rows_UD)
    if not (rule.calibrated and moments is not None and covariance_DD is not None):
        return new_UD, None
    change_UD = new_UD - rows_UD
    # log E exp(theta.h) = theta.m + theta' Sigma theta / 2 for normally distributed h; the bias takes up its change.
    share_U = change_UD @ moments.mean + 0.5 * (change_UD * ((new_UD + rows_UD) @ covariance_DD)).sum(1)
    return new_UD, -share_U


def _stretched(x_UD: Tensor, length_U1: Tensor, otherwise_UD: Tensor) -> Tensor:
    own_U1 = x_UD.norm(dim=1, keepdim=True)
    stretched_UD = x_UD * (length_U1 / own_U1)
    return torch.where(stretched_UD.isfinite().all(1, keepdim=True), stretched_UD, otherwise_UD)


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
        T, gamma: as :func:`engram.functional.hebbian_update_`.
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
