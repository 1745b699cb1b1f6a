r"""What loss of a row a write is one gradient step on, under each rule: equation (7), ``functional.inner_step_``.

Shapes: N examples, U classes that occur, D features.

A rule says what x is written in place of the activation and what length the row has afterwards; an objective, what
step leads there from the row: with p the softmax of the layer after the optimizer's step,

.. math:: \text{l2: } \theta + \lambda(\overline{x} - \theta), \qquad
          \text{inner\_product: } \theta + \lambda \overline{x}, \qquad
          \text{softmax: } \theta + \lambda\, \overline{g}\, x\big(\overline{g h} / \overline{g}\big), \quad
          g_j = 1 - p_y(h_j)

The last is :math:`\theta + \lambda \overline{g x}` where x is linear in h; where it is stretched to the length of the
row, the mean surprise is what the step is still shortened by. Which rules have them (our decision):

- *paper*: all three, as in the paper.
- *direction, centered, whitened*: all three; the row is given its length back after the step. (For them the inner
  product is L2 at the rate :math:`\lambda / (1 + \lambda)`: a first sight turns a row half the way.)
- *sight*: the same. A class that comes to a trained layer is solved for, which is a step on no loss of one row: its
  row and bias are those of ``functional.first_sight`` whatever the objective.
- *scaled*: L2 alone. x has the length of the row, and nothing would give the row its own back: a step that only adds
  feeds on itself, and rows grow by the factor c in c sights.
- *additive*: nothing but itself; it *is* the paper's rule with the inner product.
- *shrinkage*: nothing but itself; it is a posterior mean of a Gaussian, and its bias is calibrated for that move.
- A rule whose ``move`` is its own: nothing but itself; what its step is on is not known here.
"""

import dataclasses

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.inner_step import check_objective
from firstsight.heads.rule import Gated, Rule
from firstsight.heads.steps.exchange import Sums


def stepping(rule: Rule, name: str, objective: str) -> Rule:
    """The rule with the step of this objective in place of its own.

    Raises:
        InputError: there is no such objective, or the rule ``name`` has no other than its own.
    """
    check_objective(objective)
    if objective in ("l2", "missed", "half"):
        return rule
    why = ""
    if rule.additive:
        why = 'it is the step on the inner product already. Leave objective out, or take rule="paper"'
    elif rule.shrinking or rule.calibrated:
        why = "its step is the posterior mean of a Gaussian, and its bias goes with that"
    elif rule.scaled and not rule.kept:
        why = "it writes what is as long as the row, so that a step that only adds would feed on itself"
    elif type(rule).move is not Rule.move:
        why = "its step is its own"
    if why:
        raise InputError(
            f"objective is {objective!r} and rule {name!r}: {why}. Expected objective='l2', or one of the rules paper, "
            "direction, centered, sight and whitened."
        )
    return dataclasses.replace(rule, additive=True)


def with_surprise(sums: Sums, hidden_ND: Tensor, target_N: Tensor, surprise_N: Tensor) -> Sums:
    """Class sums [U, D], and beside them those of g h, [U, D], and of g, [U, 1], which travel with them."""
    classes_U, sums_UD, occurrences_U = sums
    of_N = torch.cat([hidden_ND * surprise_N[:, None], surprise_N[:, None]], 1)
    at_N = torch.searchsorted(classes_U, target_N)
    beside_U = sums_UD.new_zeros(len(classes_U), of_N.shape[1]).index_add_(0, at_N, of_N)
    return classes_U, torch.cat([sums_UD, beside_U], 1), occurrences_U


def without_surprise(sums: Sums, width: int) -> tuple[Sums, Gated]:
    """Take ``with_surprise`` apart: the class sums, and what the write makes of the rest."""
    classes_U, wide_U, occurrences_U = sums
    gated_UD, total_U = wide_U[:, width:-1], wide_U[:, -1]

    def gated(of_classes: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.searchsorted(classes_U, of_classes)
        mean_UD = gated_UD[at] / total_U[at, None].clamp(min=torch.finfo(total_U.dtype).tiny)
        return mean_UD, total_U[at] / occurrences_U[at]

    return (classes_U, wide_U[:, :width], occurrences_U), gated
