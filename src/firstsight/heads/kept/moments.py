r"""Running mean m and covariance :math:`\Sigma` of all activations, for the rules of the write that use them.

Shapes: U classes of a step, N activations, D features.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from firstsight.functional.rows import Total, as_it_is, moments_of_rows
from firstsight.heads.steps.exchange import Sums

Needs: TypeAlias = Literal["nothing", "mean", "covariance", "cross"]

# Of the running moments: a step is forgotten after about a hundred others, for the model that makes them changes.
RATE = 0.01
# Added to the covariance's diagonal, as a share of its mean, so that it can be inverted from the first step on.
RIDGE = 0.01
# In units of the last place: differences of running means that are as small as this are rounding.
ROUNDING = 32
_FEW = 8192  # classes of which the covariance of rows is made anew when some go
_SAME = 1e-6  # variance of the rows, as a share of the largest, below which a direction has none


def no_moments(weight: Tensor, needs: Needs) -> Tensor | None:
    """The buffer of a layer [V, D] that has seen nothing yet; see ``Moments``."""
    if needs == "nothing":
        return None
    D = weight.shape[1]
    shape = {"mean": (1 + D,), "covariance": (1 + D, 1 + D), "cross": (1 + 2 * D, 1 + D)}[needs]
    return torch.zeros(shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)


class Moments:
    """Running moments of all activations, on a buffer that is changed in place.

    The buffer holds the exponentially weighted mean of (1, h), of (1, h)(1, h)^T, or of (1, h, row)(1, h)^T with the
    row of the activation's class, started at 0: its first value is the weight of what it has seen, 1 in the long run,
    and dividing by it leaves no trace of the start.

    Args:
        buffer: [1 + D] for the mean alone, [1 + D, 1 + D] with the covariance, or [1 + 2D, 1 + D] with that of rows
            and activations too.
    """

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self._D = buffer, buffer.shape[-1] - 1
        self._first = buffer if buffer.ndim == 1 else buffer[0]

    def take_in_(self, sums: Sums, weight: Tensor | None, rate: float = RATE, total: Total = as_it_is) -> Sums:
        """Take in the sums of a step (of ``with_second_moment``, for a covariance), and give back the classes' own.

        Args:
            sums: what the step saw.
            weight: [V, D] the rows as they are now; None if they are not those of a layer in training.
            rate: how much they count against all that was taken in before; 1 for nothing else.
            total: of tensors of one shape that each process has, where classes are shared out, the sum.
        """
        classes, sums_UD, occurrences = sums
        D = int((classes < 0).sum())  # 0 when another rank skipped the step
        parts = total(self._parts(sums, D, weight))
        if tokens := int(total(occurrences.sum())):
            if weight is not None and not self.trained():
                self._buffer.zero_()  # what came before the first step of training has no part in it
            self._buffer *= 1 - rate
            self._first[0] += rate
            self._buffer += rate / tokens * parts
        return classes[D:], sums_UD[D:], occurrences[D:]

    def _parts(self, sums: Sums, D: int, weight: Tensor | None) -> Tensor:
        """What a step adds to the buffer, but for the weight of all that it has seen."""
        classes, sums_UD, occurrences = sums
        parts = torch.zeros_like(self._buffer)
        (parts if parts.ndim == 1 else parts[0])[1:] = sums_UD[D:].sum(0)
        if parts.ndim == 2 and D:
            parts[1 : 1 + D, 1:] = sums_UD[:D]
        if len(parts) > 1 + self._D and weight is not None:
            rows_DU = weight[classes[D:]].to(sums_UD.dtype).t()
            parts[1 + self._D :, 0] = rows_DU @ occurrences[D:].to(sums_UD.dtype)
            parts[1 + self._D :, 1:] = rows_DU @ sums_UD[D:]
        return parts

    def empty(self) -> bool:
        """Whether nothing was taken in yet."""
        return not bool(self._first[0] > 0)

    def trained(self) -> bool:
        """Whether they are those of training, as moments of rows are; others are taken for it."""
        return len(self._buffer) <= 1 + self._D or bool(self._buffer[1 + self._D :, 0].any())

    def rounded(self) -> bool:
        """Whether too little of the covariance is left beside the mean's square, in the dtype that they are kept in."""
        if self._buffer.dtype.itemsize < 4:
            return True
        spread, eps = self.bare_covariance().diagonal().mean(), torch.finfo(self._buffer.dtype).eps
        return not bool(spread > ROUNDING * eps * self.mean().square().mean())

    def weight(self) -> float:
        """Of what was taken in; 1 in the long run."""
        return float(self._first[0])

    def mean(self) -> Tensor:
        """[D]."""
        return self._first[1:] / self._first[0]

    def bare_covariance(self) -> Tensor:
        """[D, D], as it was measured: of few activations it has no inverse."""
        mean_D = self.mean()
        return self._buffer[1 : 1 + self._D, 1:] / self._buffer[0, 0] - torch.outer(mean_D, mean_D)

    def cross(self) -> Tensor:
        """[D, D], the covariance of the row of an activation's class (the first dimension) with the activation."""
        of_rows = self._buffer[1 + self._D :] / self._buffer[0, 0]
        return of_rows[:, 1:] - torch.outer(of_rows[:, 0], self.mean())

    def forget_rows_(
        self, weight: Tensor, occurrences: Callable[[], Tensor], kept: Tensor, total: Total = as_it_is
    ) -> None:
        r"""Let the covariance of rows and activations be that of some of the classes, as far as can be told.

        What :math:`T^{-1} C` recalls of a row stays as it was: :math:`C \leftarrow T' T^{-1} C`, with T the covariance
        of the rows before and T' after (our decision). Left as it is, C would speak of directions in which T' has
        next to nothing, and a class that comes there would look as if it took everything. Of many classes it is left:
        the part of a few is too small to matter, and the covariance of all rows takes seconds.

        Args:
            weight: [V, D] before.
            occurrences: gives [V], those in training, 0 of classes that have no part in this; not asked for of many.
            kept: the classes that stay.
            total: as in ``take_in_``.
        """
        num_classes = int(total(kept.new_tensor(len(weight))))
        if num_classes > _FEW or self.empty() or not self.trained():
            return
        of_V = occurrences()
        stays_V = torch.zeros_like(of_V)
        stays_V[kept] = of_V[kept]
        before, after = total(torch.stack([of_V.sum(), stays_V.sum()])).tolist()
        if before == after or not after:
            return
        _, T_DD = moments_of_rows(weight, of_V.double() / before, total)
        row_D, left_DD = moments_of_rows(weight, stays_V.double() / after, total)
        back_DD = torch.linalg.pinv(T_DD, rtol=_SAME, hermitian=True) @ self.cross().double()
        of_rows = torch.cat([row_D[:, None], left_DD @ back_DD + torch.outer(row_D, self.mean().double())], 1)
        self._buffer[1 + self._D :] = (of_rows * self.weight()).to(self._buffer.dtype)

    def covariance(self) -> Tensor:
        """[D, D], with a ridge on its diagonal."""
        mean_D, covariance_DD = self.mean(), self.bare_covariance()
        diagonal_D, info = covariance_DD.diagonal(), torch.finfo(covariance_DD.dtype)
        # Of one activation alone the difference is rounding, and may have no inverse.
        diagonal_D += (RIDGE * diagonal_D.mean()).clamp(min=ROUNDING * info.eps * mean_D.square().mean()) + info.tiny
        return covariance_DD


def with_second_moment(sums: Sums, hidden_ND: Tensor) -> Sums:
    """Class sums, and the sum of all h h^T as rows of D classes of its own, -D to -1.

    So it is merged over micro-batches and exchanged between processes like everything else. (The sum of all h needs
    nothing of its own: it is that of the class sums.)
    """
    with torch.autocast(hidden_ND.device.type, enabled=False):
        second_DD = hidden_ND.t() @ hidden_ND
    own_D = torch.arange(-len(second_DD), 0, device=second_DD.device)
    return (
        torch.cat([own_D, sums[0]]),
        torch.cat([second_DD, sums[1]]),
        torch.cat([torch.zeros_like(own_D), sums[2]]),
    )
