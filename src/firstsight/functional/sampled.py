r"""Sampled softmax: the loss over the target and a sample of the classes, the same for all tokens of a step.

Shapes, as suffixes of tensor names: N tokens, V classes, S sampled classes, D features.

Of a sample whose classes are in it with probability :math:`\pi_v`, the sum over all classes is estimated by that over
the sample, each divided by its :math:`\pi_v`:

.. math:: \ell_n = \log \Big( e^{z_{y_n}} + \sum_{s \in S,\, s \neq y_n} e^{z_s} \Big) - z_{y_n}, \qquad
          z_v = \theta_v \cdot h_n + b_v - \log \pi_v

Source: Jean et al. (2015) and Bengio & Senecal (2008); appendix A.5.2 names 8192 samples. The target's own logit is
corrected too, as is usual, so that with :math:`\pi = 1` for all it is the full softmax.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, as_labels, check_shapes, counted, product_dtype
from firstsight.functional.cross_entropy import _check_weighting, _spread, _Weighting

Sampler: TypeAlias = Literal["log_uniform", "uniform"] | Tensor

_ROUNDS = 100  # of the search for inclusion probabilities; each round settles one class at least, in practice all


def class_shares(sampler: Sampler, num_classes: int) -> Tensor:
    r"""How likely each class is to be drawn beside the others, [V] float64, in arbitrary units.

    Args:
        sampler: ``"log_uniform"``, :math:`\log \frac{v + 2}{v + 1}`, for classes sorted by falling frequency;
            ``"uniform"``; or occurrences [V], to which 1 is added (our decision), so that every class can be drawn.
        num_classes: V.

    Raises:
        InputError: the sampler is none of these.
    """
    if isinstance(sampler, Tensor):
        if sampler.shape != (num_classes,) or not bool((sampler >= 0).all()):
            raise InputError(f"sampler is {list(sampler.shape)}; expected [{num_classes}] occurrences, each 0 or more.")
        return sampler.detach().cpu().double() + 1
    if sampler == "uniform":
        return torch.ones(num_classes, dtype=torch.float64)
    if sampler != "log_uniform":
        raise InputError(f"sampler is {sampler!r}; expected 'log_uniform', 'uniform' or occurrences, [{num_classes}].")
    rank_V = torch.arange(num_classes, dtype=torch.float64)
    return ((rank_V + 2) / (rank_V + 1)).log()


def inclusion(share_V: Tensor, samples: int) -> Tensor:
    r"""The probability of each class to be in a sample of ``samples`` different ones, [V] float64.

    In proportion to the shares, and 1 where that would be more: :math:`\pi_v = \min(1, c\, p_v)` with
    :math:`\sum_v \pi_v = S`.

    Args:
        share_V: [V] float64, above 0.
        samples: S, from 1 to V.

    Raises:
        InputError: samples is not as above.
    """
    if not 1 <= samples <= len(share_V):
        raise InputError(f"samples is {samples}; expected 1 to the number of classes, {len(share_V)}.")
    sure_V = torch.zeros_like(share_V, dtype=torch.bool)
    for _ in range(_ROUNDS):
        left = samples - int(sure_V.sum())
        scaled_V = share_V * (left / share_V[~sure_V].sum().clamp(min=torch.finfo(share_V.dtype).tiny))
        more_V = ~sure_V & (scaled_V >= 1)
        if not bool(more_V.any()):
            break
        sure_V |= more_V
    return scaled_V.masked_fill(sure_V, 1.0).clamp(max=1.0)


def draw(inclusion_V: Tensor, seed: int, step: int) -> Tensor:
    """A sample of different classes, [S] int64 in rising order, each there with exactly its probability.

    Systematic sampling (Madow 1949): classes are laid side by side, each as long as it is probable, and every unit of
    length, from a random start, takes the class that it falls into. One random number, of (seed, step).

    Args:
        inclusion_V: of :func:`inclusion`; its sum is S.
        seed, step: the same sample for the same two, on every process.
    """
    total_V = inclusion_V.cumsum(0)
    samples = round(float(total_V[-1]))
    random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    start = torch.rand((), generator=random, dtype=torch.float64)
    at_S = (torch.arange(samples, dtype=torch.float64) + start) * (total_V[-1] / samples)
    sample_S: Tensor = torch.unique(torch.searchsorted(total_V, at_S, right=True).clamp(max=len(total_V) - 1))
    return sample_S


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    sample: Tensor,
    log_inclusion: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    compute_dtype: torch.dtype | None = None,
    class_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean over the tokens that count, a scalar in nats, and the loss of each, [...], outside the graph.

    Holds [N, S]. The gradient reaches the rows of the sample and of the targets alone.

    Args:
        hidden: [..., D] float.
        weight: [V, D] float.
        target: [...] integers, in [0, V) or ``ignore_index``, which gives 0.
        bias: [V] or None.
        sample: [S] int64, different classes; those that are a token's target are left out of its sum.
        log_inclusion: [V], log of :func:`inclusion`.
        compute_dtype: dtype of the matrix product; None: the autocast dtype under autocast, else the inputs' own.
        class_weight: [V] float: the mean is weighted by that of the target. None: 1.

    Raises:
        InputError: (a ``ValueError``) a shape, dtype or label is not as above.
    """
    target = as_labels(target)
    check_shapes(hidden, weight, target)
    _check_weighting(class_weight, 0.0, weight.shape[0])
    compute_dtype = product_dtype(hidden, weight, compute_dtype)
    h_ND, kept_N, keep_N = counted(hidden, target, weight.shape[0], ignore_index)
    weighting = _Weighting(weight, kept_N, class_weight, 0.0)
    with torch.autocast(hidden.device.type, enabled=False):
        sum_dtype = torch.promote_types(compute_dtype, torch.float32)
        offset_V = -log_inclusion.to(sum_dtype) if bias is None else bias.to(sum_dtype) - log_inclusion.to(sum_dtype)
        z_NS = (h_ND.to(compute_dtype) @ weight[sample].to(compute_dtype).t()).to(sum_dtype) + offset_V[sample]
        z_NS = z_NS.masked_fill(sample == kept_N[:, None], -torch.inf)
        z_N = (h_ND.to(sum_dtype) * weight[kept_N].to(sum_dtype)).sum(1) + offset_V[kept_N]
        loss_N = torch.logaddexp(z_NS.logsumexp(1), z_N) - z_N
        total = (loss_N if weighting.share_N is None else loss_N * weighting.share_N).sum()
    return total / weighting.divisor(), _spread(loss_N.detach(), keep_N, target)
