"""Classes that come to a layer after it was trained: the look at it that their first writes need, and these writes.

Shapes: V classes, D features, U classes that are written.
"""

import torch
from torch import Tensor

from firstsight.functional.first_sight import Sight, first_sight, look
from firstsight.functional.write import Move
from firstsight.heads.moments import Moments

HORIZON = 100  # steps of training for which a look stays good: about as long as the moments remember


class Looks:
    """The last look at a layer. It is made anew when rows were changed by anything but the writes of new classes."""

    def __init__(self) -> None:
        self._sight: Sight | None = None
        self._version, self._steps = -1, 0

    def stepped(self) -> None:
        """A step of training was taken."""
        self._steps += 1

    def forget(self) -> None:
        """The layer has become another."""
        self._sight = None

    def written(self, weight: Tensor) -> None:
        """The rows of new classes were added or written: what the look has seen is as it was."""
        self._version = weight._version

    def take(
        self, weight: Tensor, bias: Tensor | None, occurrences_V: Tensor, moments: Moments, training: bool
    ) -> Sight | None:
        """The look that is good now; None while there is nothing to look at.

        Args:
            weight: [V, D].
            bias: [V] or None.
            occurrences_V: in training, 0 of the new classes.
            moments: of training.
            training: whether rows change at every step: a look is then good for ``HORIZON`` of them.
        """
        if moments.empty() or int((occurrences_V > 0).sum()) < 2:
            return None
        changed = self._steps >= HORIZON if training else self._steps > 0 or weight._version != self._version
        if self._sight is None or changed:
            parts = moments.mean(), moments.bare_covariance(), moments.cross()
            self._sight = look(weight.detach(), None if bias is None else bias.detach(), occurrences_V, *parts)
            self._version, self._steps = weight._version, 0
        return self._sight


def sighted(move: Move, sight: Sight, fresh_V: Tensor, bias_V: Tensor | None) -> Move:
    """``move``, but for the classes that are new: their rows and biases are those of ``first_sight``."""

    def moved(
        classes_U: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, occurrences_U: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        new_UD, _ = move(classes_U, rows_UD, means_UD, before_U, occurrences_U)
        fresh_U = fresh_V[classes_U]
        given = (x[fresh_U] for x in (rows_UD, before_U - 1, means_UD, occurrences_U))
        rows_FD, bias_F = first_sight(sight, *given)
        new_UD[fresh_U] = rows_FD.to(new_UD.dtype)
        if bias_V is None:
            return new_UD, None
        change_U = torch.zeros_like(new_UD[:, 0])
        change_U[fresh_U] = (bias_F - bias_V[classes_U[fresh_U]]).to(change_U.dtype)
        return new_UD, change_U

    return moved


def none_fresh(weight: Tensor) -> Tensor:
    """The buffer [V] bool of a layer without new classes."""
    return torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
