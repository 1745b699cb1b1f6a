r"""The weights of a mixture that suit a text best, exact.

The mean of :math:`-\log \sum_m \lambda_m p_m(y_t)` is convex in the weights, so the optimum on the simplex is one that
its conditions tell: with :math:`g_m = \frac1N \sum_t p_m(y_t) / \sum_j \lambda_j p_j(y_t)`, every part of the mixture
has :math:`g_m = 1`, and every part that is left out :math:`g_m \le 1`.

Shape suffixes: N tokens, M components, the model first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from firstsight.errors import InputError

TOLERANCE = 1e-9  # of the conditions; float64 on 10^5 tokens can tell about 1e-12
_STEPS = 500  # Newton's need about ten


class Fitted(NamedTuple):
    """Weights and how good they are.

    Attributes:
        weights: [M] float64 on the CPU, 0 or more, summing to 1.
        nll: mean NLL of the mixture in nats.
        residual: how far the optimum's conditions are from met: the largest of :math:`g_m - 1` and
            :math:`\\lambda_m |g_m - 1|`. What is lost beside the optimum is no more, in nats.
    """

    weights: Tensor
    nll: float
    residual: float


def fit_weights(nll: Tensor) -> Fitted:
    r"""The weights of the components that minimise the mean NLL of their mixture.

    .. math:: \min_\lambda -\frac1N \sum_t \log \sum_m \lambda_m e^{-\mathrm{nll}_{mt}},
              \quad \lambda_m \ge 0,\ \sum_m \lambda_m = 1

    Newton's steps on the parts with a weight, each no longer than they stay 0 or more and halved until it gains; an
    EM step (:math:`\lambda_m \leftarrow \lambda_m g_m`) where Newton's gains nothing. Our decision: EM alone needs
    thousands of rounds where a weight goes to 0.

    Args:
        nll: [M, N] in nats, of each component alone; infinite where it gives a label no probability, not in all rows.

    Returns:
        :class:`Fitted`.

    Raises:
        InputError: (a ``ValueError``) not [M, N] with a component and a token, a NaN, or a token that no component
            gives a probability.
    """
    if nll.ndim != 2 or not nll.numel():
        raise InputError(f"nll is {list(nll.shape)}; expected [M, N]: M components and N tokens, one or more of each.")
    nll_MN = nll.detach().to("cpu", torch.float64)  # lstsq takes systems without full rank there alone
    least_N = nll_MN.amin(0)
    if not bool(torch.isfinite(least_N).all()):
        which = int((~torch.isfinite(least_N)).nonzero()[0])
        raise InputError(f"token {which} has {nll_MN[:, which].tolist()}; expected a finite NLL of one component.")
    p_MN = (least_N - nll_MN).exp()  # each token's by its most likely component: no weight changes by that
    weight_M = torch.full((len(p_MN),), 1 / len(p_MN), dtype=torch.float64)
    for _ in range(_STEPS):
        ratio_MN = p_MN / (weight_M @ p_MN)
        gradient_M = ratio_MN.mean(1)
        if _residual(weight_M, gradient_M) < TOLERANCE:
            break
        weight_M = _improved(p_MN, weight_M, ratio_MN, gradient_M)
    mixed_N = weight_M @ p_MN
    residual = _residual(weight_M, (p_MN / mixed_N).mean(1))
    return Fitted(weight_M, float((least_N - mixed_N.log()).mean()), residual)


def _residual(weight_M: Tensor, gradient_M: Tensor) -> float:
    return max(0.0, float((gradient_M - 1).max()), float((weight_M * (gradient_M - 1)).abs().max()))


def _improved(p_MN: Tensor, weight_M: Tensor, ratio_MN: Tensor, gradient_M: Tensor) -> Tensor:
    """Better weights: Newton's, as far as they go, or EM's."""
    before = float((weight_M @ p_MN).log().mean())
    free = ((weight_M > 0) | (gradient_M > 1)).nonzero()[:, 0]
    newton_M = weight_M.clone()
    newton_M[free] = _newton(ratio_MN[free], gradient_M[free])
    step_M = newton_M - weight_M
    shrinking = step_M < 0
    reach = float((weight_M[shrinking] / -step_M[shrinking]).min()) if bool(shrinking.any()) else 1.0
    length = min(1.0, reach)
    while length > 1e-6:
        found_M = (weight_M + length * step_M).clamp(min=0)
        if length == reach:  # what it ends at is 0, whatever rounding leaves
            found_M[shrinking & (weight_M / -step_M.clamp(max=-1e-300) <= reach)] = 0
        found_M /= found_M.sum()
        if float((found_M @ p_MN).log().mean()) > before:
            return found_M
        length /= 2
    return weight_M * gradient_M / (weight_M @ gradient_M)


def _newton(ratio_FN: Tensor, gradient_F: Tensor) -> Tensor:
    """Where the gain's second order is largest among weights [F] that sum to 1: H w + nu 1 = 2 g."""
    F = len(ratio_FN)
    system = ratio_FN.new_ones(F + 1, F + 1)
    system[:F, :F] = ratio_FN @ ratio_FN.t() / ratio_FN.shape[1]
    system[F, F] = 0
    right = torch.cat([2 * gradient_F, gradient_F.new_ones(1)])
    found: Tensor = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution  # of two alike one will do
    return found[:F, 0]
