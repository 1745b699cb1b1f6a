"""A sharded head that is trained on a sample of its classes, each process on a sample of its own.

Shapes: N tokens of this rank that count, M of all ranks, V_r classes of rank r, S_r of them in its sample, U rows that
a step reaches here: those of the sample and of the targets; D features.

As ``functional.sampled``: a class v is in the sample of its process with a known probability :math:`\\pi_v`, and

.. math:: \\ell_n = \\log \\Big( e^{z_{y_n}} + \\sum_r \\sum_{s \\in S_r,\\, s \\neq y_n} e^{z_s} \\Big) - z_{y_n},
          \\qquad z_v = \\theta_v \\cdot h_n + b_v - \\log \\pi_v

Source: An et al., "Partial FC: Training 10 Million Identities on a Single Machine" (2021), for a sample on each
process; theirs holds all targets of the batch and corrects nothing, this one is as likely as is said, and corrected.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import product_dtype
from firstsight.functional.sampled import Sampling, rows_of, sampling
from firstsight.functional.tiling.shards import part_gradients, part_of
from firstsight.heads.shards.loss import Shown, begin_backward, over_all, own_slice
from firstsight.heads.shards.ranks import Ranks
from firstsight.heads.shards.saving import Saving
from firstsight.heads.steps.exchange import Group
from firstsight.heads.steps.sparse import check_takes_sparse, counting


class Sampled(Saving):
    """A head that may learn from samples.

    Arguments, attributes and errors as :class:`firstsight.ShardedSoftmax`.
    """

    step: Tensor

    def __init__(
        self,
        *args: Any,
        samples: int | None = None,
        sampler: str = "log_uniform",
        seed: int = 0,
        sparse: bool = False,
        **options: Any,
    ) -> None:
        self.samples, self.sampler, self.seed, self.sparse = samples, sampler, seed, sparse
        self._sampling_of: tuple[tuple[int, int], Sampling] | None = None
        if sampler not in ("log_uniform", "uniform"):
            raise InputError(f"sampler is {sampler!r}; expected 'log_uniform' or 'uniform'.")
        if sparse and samples is None:
            raise InputError("sparse gradients are of the rows of a sample; give samples too.")
        super().__init__(*args, **options)
        if samples is not None and samples < self._ranks.size:
            raise InputError(f"samples is {samples}; expected one for each of {self._ranks.size} processes at least.")
        if samples is not None:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64, device="cpu"))

    def reset_parameters(self) -> None:
        """Start afresh, the draws too."""
        super().reset_parameters()
        if "step" in self._buffers:
            self.step = torch.zeros_like(self.step, device="cpu")

    def _samples_for(self, reduction: str) -> bool:
        """Whether a loss is to be of samples."""
        learns = self.training and torch.is_grad_enabled() and reduction == "mean"
        return learns and self.samples is not None and self.samples < self.num_classes

    def _terms_of_sample(self) -> dict[str, Any]:
        step = 0 if self.samples is None else int(self.step)
        return {"samples": self.samples, "sampler": self.sampler, "seed": self.seed, "draw": step}

    def _sampling(self) -> Sampling:
        """How this process draws from its own classes."""
        size, rank = self._ranks.size, self._ranks.rank
        assert self.samples is not None
        own = len(self.weight), min(len(self.weight), self.samples // size + (rank < self.samples % size))
        if self._sampling_of is None or self._sampling_of[0] != own:
            self._sampling_of = own, sampling(self.sampler, *own)  # type: ignore[arg-type]
        return self._sampling_of[1]

    def sample(self) -> Tensor:
        """The classes of this step's sample that are here, [S_r] int64 in rising order."""
        return self.classes[self._drawn()]

    def _drawn(self) -> Tensor:
        seed = self.seed * self._ranks.size + self._ranks.rank
        return self._sampling().draw(seed, int(self.step)).to(self.weight.device)

    def _sampled(
        self, hidden: Tensor, shown: Shown, reduction: str, nll_out: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        if options.get("label_smoothing"):
            raise InputError("label_smoothing is a term over all classes, of which a sampled softmax has not the sum.")
        bias, weight_V = self.bias, options.get("class_weight")
        at_S, (_, owned) = self._drawn(), shown.owned()
        at_U, place = torch.unique(torch.cat([at_S, owned]), return_inverse=True)
        own_M = shown.place_M >= 0
        of_M = torch.full_like(shown.place_M, -1).masked_scatter(own_M, place[len(at_S) :])
        dtype = product_dtype(hidden, self.weight, self.compute_dtype)
        offset_U = -self._sampling().log_inclusion(at_U).to(torch.promote_types(dtype, torch.float32))
        if (prior_V := options.get("prior")) is not None:
            offset_U = offset_U + prior_V[at_U].to(offset_U)
        if bias is not None:
            offset_U = rows_of(bias, at_U, self.sparse).to(offset_U) + offset_U
        h_ND = hidden.reshape(-1, hidden.shape[-1])[shown.keep_N]
        given = h_ND, rows_of(self.weight, at_U, self.sparse), offset_U
        nll_N = _SampledNLL.apply(*given, place[: len(at_S)], of_M, shown, self._ranks, dtype)  # type: ignore[no-untyped-call]
        if not self.attached:
            self.step += 1
        if weight_V is None:
            return self._reduced(hidden, shown, (nll_N, nll_N.detach()), None, reduction, nll_out)
        of_N = weight_V.detach().to(nll_N)[shown.y_M[own_slice(shown.sizes, self._ranks.rank)]]
        return self._reduced(hidden, shown, (nll_N * of_N, nll_N.detach()), of_N, reduction, nll_out)

    def _reduced(self, *given: Any) -> Tensor:
        raise NotImplementedError  # of ``Parts``

    def _hooks(
        self, optimizer: torch.optim.Optimizer, given: "weakref.ref[Any]", group: Group, after: int
    ) -> list[Any]:
        if self.sparse:
            check_takes_sparse(optimizer, self.parameters())
        hooks: list[Any] = super()._hooks(optimizer, given, group, after)
        return hooks if self.samples is None else [*hooks, counting(self, optimizer)]


class _SampledNLL(torch.autograd.Function):
    """The loss of each token of this rank, [N], as ``shared_nll``.

    h [N, D]; rows [U, D] and what is added to their logits [U]; the sample's places among them [S]; the target's [M],
    -1 where it is another rank's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        w_UD: Tensor,
        b_U: Tensor,
        of_S: Tensor,
        of_M: Tensor,
        shown: Shown,
        ranks: Ranks,
        compute_dtype: torch.dtype,
    ) -> Tensor:
        in_M = torch.searchsorted(of_S, of_M).clamp(max=len(of_S) - 1)
        in_M = in_M.where(of_S[in_M] == of_M, -1)  # the target's place in the sample
        max_M, others_M, _ = part_of(shown.h_MD, w_UD[of_S], b_U[of_S], in_M, compute_dtype)
        at_M = of_M.clamp(min=0)
        z_M = b_U.new_full((len(of_M),), -torch.inf)
        if len(w_UD):
            z_M = (shown.h_MD.to(b_U.dtype) * w_UD[at_M].to(b_U.dtype)).sum(1) + b_U[at_M]
        z_M = z_M.masked_fill(of_M < 0, -torch.inf).to(max_M.dtype)
        nll_M, _, max_M, sum_M, missing_M = over_all(ranks, max_M, others_M, z_M)
        ctx.save_for_backward(shown.h_MD, w_UD, b_U, of_S, of_M, in_M, max_M, sum_M, missing_M)
        ctx.sizes, ctx.ranks, ctx.compute_dtype = shown.sizes, ranks, compute_dtype
        return nll_M[own_slice(shown.sizes, ranks.rank)].clone()

    @staticmethod
    def backward(ctx: Any, g_N: Tensor) -> tuple[Tensor | None, ...]:
        h_MD, w_UD, b_U, of_S, of_M, in_M, max_M, sum_M, missing_M = ctx.saved_tensors
        g_M = begin_backward(ctx.ranks, g_N, ctx.sizes)
        given, sums = (h_MD, w_UD[of_S], b_U[of_S]), (max_M, sum_M, torch.zeros_like(g_M))
        gh_MD, gw_SD, gb_S = part_gradients(given, in_M, ctx.compute_dtype, g_M, g_M, sums, None)
        assert gh_MD is not None
        wide = g_M.dtype
        target_M, at_M = (g_M * missing_M).masked_fill(of_M < 0, 0), of_M.clamp(min=0)
        gh_MD = gh_MD.to(wide) - w_UD[at_M].to(wide) * target_M[:, None]
        gw_UD = torch.zeros_like(w_UD, dtype=wide).index_add_(0, of_S, gw_SD.to(wide))  # type: ignore[union-attr]
        gw_UD.index_add_(0, at_M, h_MD.to(wide) * target_M[:, None], alpha=-1)
        gb_U = torch.zeros_like(b_U, dtype=wide).index_add_(0, of_S, gb_S.to(wide))  # type: ignore[union-attr]
        gb_U.index_add_(0, at_M, target_M, alpha=-1)
        gh_ND = ctx.ranks.sum_of_own(gh_MD.to(h_MD.dtype), ctx.sizes)
        gw_UD, gb_U = (gw_UD / ctx.ranks.size).to(w_UD.dtype), (gb_U / ctx.ranks.size).to(b_U.dtype)
        return gh_ND, gw_UD, gb_U, None, None, None, None, None
