r"""Sampled softmax: the loss over the target and a sample of the classes, the same for all tokens of a step.

Shapes, as suffixes of tensor names: N tokens, V classes, S sampled classes, D features.

Of a sample whose classes are in it with probability :math:`\pi_v`, the sum over all classes is estimated by that over
the sample, each divided by its :math:`\pi_v`:

.. math:: \ell_n = \log \Big( e^{z_{y_n}} + \sum_{s \in S,\, s \neq y_n} e^{z_s} \Big) - z_{y_n}, \qquad
          z_v = \theta_v \cdot h_n + b_v - \log \pi_v

Source: Jean et al. (2015) and Bengio & Senecal (2008); appendix A.5.2 names 8192 samples. The target's own logit is
corrected too, as is usual, so that with :math:`\pi = 1` for all it is the full softmax.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, as_labels, check_shapes, counted, product_dtype
from firstsight.functional.cross_entropy import _check_weighting, _spread, _Weighting

Sampler: TypeAlias = Literal["log_uniform", "uniform"] | Tensor

_ROUNDS = 100  # of the search for inclusion probabilities; each round settles one class at least, in practice all


class Sampling(ABC):
    r"""Samples of S different classes of V, each class in them with a known probability, whatever V is at no cost of V.

    In proportion to the shares p of classes, and 1 where that would be more: :math:`\pi_v = \min(1, c\, p_v)` with
    :math:`\sum_v \pi_v = S`. Drawn by systematic sampling (Madow 1949): classes are laid side by side, each as long as
    it is probable, and every unit of length, from a random start, takes the class that it falls into. One random
    number, of (seed, step).
    """

    def __init__(self, num_classes: int, samples: int) -> None:
        if not 1 <= samples <= num_classes:
            raise InputError(f"samples is {samples}; expected 1 to the number of classes, {num_classes}.")
        self.num_classes, self.samples = num_classes, samples

    def draw(self, seed: int, step: int) -> Tensor:
        """A sample [S] int64 in rising order: the same for the same two numbers, on every process."""
        random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        start = torch.rand((), generator=random, dtype=torch.float64)
        at_S = torch.arange(self.samples, dtype=torch.float64) + start
        sample_S: Tensor = torch.unique(self._classes_at(at_S).clamp(max=self.num_classes - 1))
        return sample_S

    def inclusion(self) -> Tensor:
        r""":math:`\pi`, [V] float64."""
        return self.log_inclusion(torch.arange(self.num_classes)).exp()

    @abstractmethod
    def log_inclusion(self, classes: Tensor) -> Tensor:
        r""":math:`\log \pi` of classes [...] int64, [...] float64, where they are."""

    @abstractmethod
    def _classes_at(self, at_S: Tensor) -> Tensor:
        """The class, int64, that lies at each of these lengths in [0, S)."""


class _Uniform(Sampling):
    def log_inclusion(self, classes: Tensor) -> Tensor:
        return torch.full_like(classes, math.log(self.samples / self.num_classes), dtype=torch.float64)

    def _classes_at(self, at_S: Tensor) -> Tensor:
        return (at_S * (self.num_classes / self.samples)).long()


class _LogUniform(Sampling):
    """p_v = log((v + 2) / (v + 1)), whose sum below v is log(v + 1): so nothing of size V is kept, or gone through."""

    def __init__(self, num_classes: int, samples: int) -> None:
        super().__init__(num_classes, samples)
        self._sure, self._scale = 0, 0.0  # the first classes, in every sample; c
        while self._sure < samples:
            self._scale = (samples - self._sure) / math.log((num_classes + 1) / (self._sure + 1))
            sure = min(samples, math.floor(1 / math.expm1(1 / self._scale)))  # those with c p >= 1
            if sure <= self._sure:
                break
            self._sure = sure

    def log_inclusion(self, classes: Tensor) -> Tensor:
        share = (1 / (classes.double() + 1)).log1p() * self._scale
        return share.log().clamp(max=0).masked_fill(classes < self._sure, 0)

    def _classes_at(self, at_S: Tensor) -> Tensor:
        past_S = (at_S - self._sure).clamp(min=0) / (self._scale or 1)
        return torch.where(at_S < self._sure, at_S, (past_S + math.log(self._sure + 1)).expm1()).long()


class _Occurrences(Sampling):
    """p_v = n_v + 1 of occurrences n (the 1 is our decision), so that every class can be drawn; two tables of V."""

    def __init__(self, occurrences_V: Tensor, samples: int) -> None:
        super().__init__(len(occurrences_V), samples)
        share_V = occurrences_V.detach().cpu().double() + 1
        sure_V = torch.zeros_like(share_V, dtype=torch.bool)
        for _ in range(_ROUNDS):
            left = samples - int(sure_V.sum())
            scaled_V = share_V * (left / share_V[~sure_V].sum().clamp(min=torch.finfo(share_V.dtype).tiny))
            more_V = ~sure_V & (scaled_V >= 1)
            if not bool(more_V.any()):
                break
            sure_V |= more_V
        inclusion_V = scaled_V.masked_fill(sure_V, 1.0).clamp(max=1.0)
        self._log_V, self._total_V = inclusion_V.log(), inclusion_V.cumsum(0)

    def log_inclusion(self, classes: Tensor) -> Tensor:
        return self._log_V[classes.cpu()].to(classes.device)

    def _classes_at(self, at_S: Tensor) -> Tensor:
        return torch.searchsorted(self._total_V, at_S * (self._total_V[-1] / self.samples), right=True)


def sampling(sampler: Sampler, num_classes: int, samples: int) -> Sampling:
    r"""How samples of ``samples`` classes are drawn.

    Args:
        sampler: ``"log_uniform"``, :math:`p_v = \log \frac{v + 2}{v + 1}`, for classes sorted by falling frequency;
            ``"uniform"``; or occurrences [V], to which 1 is added (our decision), so that every class can be drawn.
        num_classes: V.
        samples: S, from 1 to V.

    Raises:
        InputError: (a ``ValueError``) the sampler is none of these, or samples not as above.
    """
    check_sampler(sampler, num_classes)
    if isinstance(sampler, Tensor):
        return _Occurrences(sampler, samples)
    return (_LogUniform if sampler == "log_uniform" else _Uniform)(num_classes, samples)


def check_sampler(sampler: Sampler, num_classes: int) -> None:
    """Raise InputError unless it is one that :func:`sampling` knows."""
    if isinstance(sampler, Tensor):
        if sampler.shape != (num_classes,) or not bool((sampler >= 0).all()):
            raise InputError(f"sampler is {list(sampler.shape)}; expected [{num_classes}] occurrences, each 0 or more.")
    elif sampler not in ("log_uniform", "uniform"):
        raise InputError(f"sampler is {sampler!r}; expected 'log_uniform', 'uniform' or occurrences, [{num_classes}].")


class _SparseRows(torch.autograd.Function):
    """table[at], whose gradient is a sparse tensor of these rows [U], each once and in rising order."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, at_U: Tensor) -> Tensor:
        ctx.save_for_backward(at_U)
        ctx.shape = table.shape
        return table[at_U]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (at_U,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(at_U[None], g, ctx.shape, is_coalesced=True, check_invariants=False), None


def rows_of(table: Tensor, at: Tensor, sparse: bool) -> Tensor:
    """The rows [U, ...] of a table [V, ...] at places [U], each once and rising; a sparse gradient of them if asked."""
    apply: Callable[..., Tensor] = _SparseRows.apply
    return apply(table, at) if sparse else table[at]


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    sample: Tensor,
    log_inclusion: Callable[[Tensor], Tensor],
    *,
    ignore_index: int = IGNORE_INDEX,
    compute_dtype: torch.dtype | None = None,
    class_weight: Tensor | None = None,
    sparse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The mean over the tokens that count, a scalar in nats, and the loss of each, [...], outside the graph.

    Holds [N, S]. The gradient reaches the rows of the sample and of the targets alone.

    Args:
        hidden: [..., D] float.
        weight: [V, D] float.
        target: [...] integers, in [0, V) or ``ignore_index``, which gives 0.
        bias: [V] or None.
        sample: [S] int64, different classes; those that are a token's target are left out of its sum.
        log_inclusion: of classes [U], as :meth:`Sampling.log_inclusion`.
        compute_dtype: dtype of the matrix product; None: the autocast dtype under autocast, else the inputs' own.
        class_weight: [V] float: the mean is weighted by that of the target. None: 1.
        sparse: the gradients of weight and bias are sparse tensors of the rows that they reach, each once. Without it
            they are dense, and a step costs what V rows cost.

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
        at_U, place = torch.unique(torch.cat([sample, kept_N]), return_inverse=True)
        of_S, of_N = place[: len(sample)], place[len(sample) :]
        w_UD = rows_of(weight, at_U, sparse)
        offset_U = -log_inclusion(at_U).to(sum_dtype)
        if bias is not None:
            offset_U = rows_of(bias, at_U, sparse).to(sum_dtype) + offset_U
        z_NS = (h_ND.to(compute_dtype) @ w_UD[of_S].to(compute_dtype).t()).to(sum_dtype) + offset_U[of_S]
        z_NS = z_NS.masked_fill(sample == kept_N[:, None], -torch.inf)
        z_N = (h_ND.to(sum_dtype) * w_UD[of_N].to(sum_dtype)).sum(1) + offset_U[of_N]
        loss_N = torch.logaddexp(z_NS.logsumexp(1), z_N) - z_N
        total = (loss_N if weighting.share_N is None else loss_N * weighting.share_N).sum()
    return total / weighting.divisor(), _spread(loss_N.detach(), keep_N, target)
