"""Classes that come to a layer after it was trained: what they are, the look that their first writes need, the writes.

Shapes: V classes, D features, U classes that are written.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from firstsight.errors import InputError, warn
from firstsight.functional.first_sight import Claims, Sight, first_sight, look_at
from firstsight.functional.rows import Rows, Total, as_it_is
from firstsight.functional.write import Move
from firstsight.heads.kept.moments import Moments

# What a class is, in the buffer ``fresh`` [V] uint8: one of a layer that learns; one that came to a trained layer and
# was not met yet, or was, and is written by sight until it has been seen T times; one of a trained layer that was taken
# over, which is left to the gradient and of which it is not known how often it has occurred; one of such a layer whose
# occurrences are known, and which is written like those of a layer that learns.
TRAINED, NEW, SHOWN, TAUGHT, COUNTED = 0, 1, 2, 3, 4
# The buffers, [V] each; the second, what the rows hold of a bias, where the layer has none.
KEPT = {"fresh": torch.uint8, "lifted": torch.float32}
HORIZON = 100  # steps of training for which a look stays good: about as long as the moments remember
SAMPLED = 4096  # numbers of a parameter that tell whether it was changed
READY = 0.25  # how much of their memory is filled before there is a look: 29 steps of a hundred


class Looks:
    """The last look at a layer, good until rows or biases change by anything but the writes of new classes."""

    def __init__(self) -> None:
        self._sight: Sight | None = None
        self._stamp: object = None
        self._steps = 0
        self.claims: Claims | None = None  # those that all new classes were last written with

    def stepped(self) -> None:
        """A step of training was taken."""
        self._steps += 1

    def forget(self) -> None:
        """The layer has become another."""
        self._sight = None

    def keep(self, weight: Tensor, bias: Tensor | None) -> Callable[[], None]:
        """Call what this returns after a change that leaves trained classes alone: a look that is good stays so."""
        if self._sight is None:
            return lambda: None
        good = self._stamp == _stamp(weight, bias)

        def changed() -> None:
            if good:
                self._stamp = _stamp(weight, bias)

        return changed

    def take(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rows: Callable[[], Rows],
        moments: Moments,
        training: bool,
        total: Total = as_it_is,
    ) -> Sight | None:
        """The look that is good now; None while there is nothing to look at, which is warned of.

        Args:
            weight: [V, D].
            bias: [V] or None.
            rows: gives what a look takes of them; asked for a new look alone, so that a write that reuses one costs
                nothing of V.
            moments: of training.
            training: whether rows change at every step: a look is then good for ``HORIZON`` of them.
            total: of tensors of one shape that each process has, where classes are shared out, the sum.
        """
        stamp = _stamp(weight, bias)
        changed = self._steps >= HORIZON if training else self._steps > 0 or stamp != self._stamp
        changed = changed or self._sight is None or self._sight.row_D.device != weight.device
        if bool(total(torch.tensor(int(changed), device=weight.device))):
            self._sight, self._stamp, self._steps = _look(rows, moments), stamp, 0
        if self._sight is None:
            warn(
                "a new class is written as the rule 'centered' writes it, and a trained layer would hardly find it. "
                "Show the layer what it was trained on under `with head.looking():`, then write the example again. "
                "(It has seen less than 30 steps of training, nothing that differs or nothing finite; what it saw was "
                "rounded by a cast of the model; or it was told that its classes are new, and they are trained: "
                'head.set_counts("trained") first.)'
            )
        return self._sight


def _look(rows: Callable[[], Rows], moments: Moments) -> Sight | None:
    if moments.weight() < READY or moments.rounded() or (given := rows()).num_classes < 2:
        return None
    try:
        sight = look_at(given, moments.mean(), moments.bare_covariance(), moments.cross())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # rows or activations that are all equal, or not finite
        return None
    return sight if bool(sight.tell_DD.isfinite().all() and sight.recall_DD.isfinite().all()) else None


def _stamp(weight: Tensor, bias: Tensor | None) -> object:
    """Equal as long as the parameters hold the same; inference tensors do not tell, and never equal.

    Versions miss what fused optimizers and ``.data`` change, so a sample of the numbers is part of it.
    """
    parts = [weight] if bias is None else [weight, bias]
    if any(part.is_inference() for part in parts):
        return object()
    samples = [part.detach().flatten()[:: max(1, part.numel() // SAMPLED)].double().sum().item() for part in parts]
    return [(part.device, part.dtype, part._version) for part in parts], samples


def sighted(
    move: Move, sight: Sight | None, fresh_V: Tensor, bias_V: Tensor, claims: Claims, *, lifted: bool, training: bool
) -> Move:
    """``move``, but classes that came later get the rows and biases of ``first_sight``, and taught ones keep theirs.

    ``lifted``: the layer has no bias. Then ``bias_V`` is what its rows hold of one, and is changed in place. In
    ``training`` a bias is the gradient's from the first sight on.
    """

    def moved(
        classes_U: Tensor, rows_UD: Tensor, means_UD: Tensor, before_U: Tensor, occurrences_U: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        is_U = fresh_V[classes_U]
        new_UD, _ = move(classes_U, rows_UD, means_UD, before_U, occurrences_U)
        new_UD = torch.where((is_U == TAUGHT)[:, None], rows_UD, new_UD)
        coming_U = coming(is_U)
        if sight is None or not bool(coming_U.any()):
            return new_UD, None
        seen_U = (before_U - 1).masked_fill(is_U == NEW, 0)
        bias_U = bias_V[classes_U]
        given = (x[coming_U] for x in (rows_UD, bias_U, seen_U, means_UD, occurrences_U))
        keeps_F = is_U[coming_U] == SHOWN if training else None
        rows_FD, bias_F = first_sight(sight, *given, claims=claims, keeps=keeps_F)
        new_UD[coming_U] = rows_FD.to(new_UD.dtype)
        if lifted:
            bias_V[classes_U[coming_U]] = bias_F.to(bias_V.dtype)
            return new_UD, None
        change_U = torch.zeros_like(new_UD[:, 0])
        change_U[coming_U] = (bias_F - bias_U[coming_U]).to(change_U.dtype)
        return new_UD, change_U

    return moved


def check_claims(price: float, cap: float | None) -> None:
    """Raise InputError unless price is above 0 and cap a share."""
    if not price > 0:
        raise InputError(f"price is {price}; expected what an old activation lost costs in new ones won, above 0.")
    if cap is not None and not 0 < cap <= 1:
        raise InputError(f"cap is {cap}; expected a share of all activations, above 0 and up to 1, or None.")


def coming(fresh: Tensor) -> Tensor:
    """Whether classes are those that a first sight is for, as bool."""
    return (fresh == NEW) | (fresh == SHOWN)


def note_written_(fresh_V: Tensor, classes_U: Tensor) -> bool:
    """Note that classes were written with a look at the layer, and tell whether none of them was a trained one."""
    is_U = fresh_V[classes_U]
    fresh_V[classes_U[coming(is_U)]] = SHOWN
    return not bool(((is_U == TRAINED) | (is_U == COUNTED)).any())
