"""The loss over classes that lie on several processes, and what is read of them.

Shapes: V classes, V_r of them on rank r, D features, N tokens, M of all ranks; [...] stands for any dimensions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.return_types import topk

from firstsight.errors import InputError
from firstsight.functional.checks import as_labels, check_class_weight, check_shapes, counted
from firstsight.functional.checks import product_dtype as dtype_of
from firstsight.functional.shares import log_share
from firstsight.functional.tiling.largest import largest_logits
from firstsight.heads.shards.loss import Shown, Weighting, own_slice, shared_nll
from firstsight.heads.shards.ranks import REFUSED
from firstsight.heads.shards.sampling import Sampled
from firstsight.heads.steps.attachment import Handle
from firstsight.heads.steps.exchange import Group
from firstsight.heads.steps.peers import LOSS
from firstsight.heads.steps.sparse import share_out

_WRAPPED = (
    "DistributedDataParallel takes a head for the same on all. Call firstsight.prepare_ddp(model) before "
    "DistributedDataParallel(model)."
)


class Parts(Sampled):
    """What stands before a head to share its classes out: ``class ShardedSoftmax(Parts)``.

    Of a group of one process it is the head behind it. Arguments, attributes and errors as
    :class:`firstsight.ShardedSoftmax`.
    """

    _unwrapped = False  # whether it was looked if its rows are those of another process

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], of a head whose classes are all here.

        Raises:
            InputError: (a ``ValueError``) there are other processes.
        """
        if not self._alone():
            raise InputError(
                "the logits of all classes are on no process of a sharded head. Use loss, nll or topk; or to_linear() "
                "for a layer that is whole."
            )
        return super().forward(hidden)

    def embedding(self, tokens: Tensor) -> Tensor:
        """As :meth:`Softmax.embedding`, of a head whose classes are all here.

        Raises:
            InputError: (a ``ValueError``) there are other processes.
        """
        if not self._alone():
            raise InputError("the rows of a sharded head are on several processes, and tied to no embedding.")
        return super().embedding(tokens)

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None, after: int = 0) -> Handle:
        """As of the head behind it; the group is that of the head."""
        if self._alone():
            group = self._ranks.given if group is None else group
        elif group is None:
            group = self._ranks.group
        elif group is not self._ranks.group:
            raise InputError("the group of a sharded head is the one that it was made with; leave group= out.")
        return super().attach(optimizer, group=group, after=after)

    # ── the loss ──

    def _terms_of_loss(self, hidden: Any) -> dict[str, Any]:
        terms = {"num_classes": self._total, "in_features": self.in_features, "bias": self.bias is not None}
        terms |= self._terms_of_sample()
        return {**terms, "dtype": str(self.weight.dtype), "hidden": str(getattr(hidden, "dtype", None))}

    def _clock(self) -> Tensor:
        """[] int64, how many steps were taken, as far as is known."""
        return torch.zeros((), dtype=torch.int64, device=self.weight.device)

    def show(self, hidden: Tensor, target: Tensor, check: Callable[[], object] = bool, told: int = 0) -> Shown:
        """Bring the tokens of all ranks together: a collective. What one refuses is an InputError on all."""
        error = None
        try:
            target = as_labels(target)
            check_shapes(hidden, self.weight, target)
            check()
            h_ND, y_N, keep_N = counted(hidden.detach(), target, self._total, self.ignore_index)
        except InputError as found:
            error = found
        size = REFUSED if error is not None else len(y_N)
        try:
            sizes, tells = self._ranks.begin(size, told, self._terms_of_loss(hidden), self._clock(), LOSS)
        except InputError as found:
            raise found if error is None else error from None
        if error is not None:
            raise error
        if all(tells) and len(set(tells)) == 1:
            raise InputError(f"each process has the same rows, and other classes. {_WRAPPED}")
        h_MD, y_M = self._ranks.gather(h_ND, sizes), self._ranks.gather(y_N, sizes)
        return Shown(h_MD, y_M, self.places(y_M), sizes, keep_N)

    def places(self, labels: Tensor) -> Tensor:
        """The place of each class among those of this rank, -1 where it is another's; [...] of labels [...]."""
        at = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        return at.where(self.classes[at] == labels, -1)

    def _note_shown(self, result: Tensor, shown: Shown) -> None:
        """A loss has come from it."""

    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        if self._alone() and not self._samples_for(reduction):
            return super()._cross_entropy(hidden, target, reduction, nll_out, **options)
        told = 0
        if self._ranks.size > 1 and self.training and torch.is_grad_enabled():
            told = self._check_not_of_ddp()
            share_out(self.parameters(), self._ranks.sum_)
        weight, epsilon = options.get("class_weight"), options.get("label_smoothing", 0.0)

        def check() -> None:
            if not 0 <= epsilon <= 1:
                raise InputError(f"label_smoothing is {epsilon}; expected a share in [0, 1], like 0.1.")
            if weight is not None:
                check_class_weight(weight, self._total)

        shown = self.show(hidden, target, check, told)
        of = self._sampled if self._samples_for(reduction) else self._shared
        result = of(hidden, shown, reduction, nll_out, options)
        self._note_shown(result, shown)
        return result

    def _shared(
        self, hidden: Tensor, shown: Shown, reduction: str, nll_out: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        bias: Tensor | None = self.bias
        if (prior_V := options.get("prior")) is not None:
            bias = prior_V.to(self.weight) if bias is None else bias + prior_V.to(self.weight)
        own, epsilon = own_slice(shown.sizes, self._ranks.rank), options.get("label_smoothing", 0.0)
        weighting = Weighting.of(shown, own, options.get("class_weight"), epsilon, self.classes, self._total)
        h_ND = hidden.reshape(-1, hidden.shape[-1])[shown.keep_N]
        how = dtype_of(hidden, self.weight, self.compute_dtype), weighting
        each = shared_nll(h_ND, self.weight, bias, shown, self._ranks, how)
        return self._reduced(hidden, shown, each, weighting.own_N, reduction, nll_out)

    def _reduced(
        self,
        hidden: Tensor,
        shown: Shown,
        each: tuple[Tensor, Tensor],
        weight_N: Tensor | None,
        reduction: str,
        nll_out: Tensor | None,
    ) -> Tensor:
        """The loss asked for, of each token's and its NLL; ``weight_N``: what a mean divides by."""
        (loss_N, nll_N), shape = each, hidden.shape[:-1]
        if nll_out is not None:
            nll_out.copy_(nll_N.new_zeros(shown.keep_N.shape).masked_scatter(shown.keep_N, nll_N).view(shape))
        if reduction == "none":
            return loss_N.new_zeros(shown.keep_N.shape).masked_scatter(shown.keep_N, loss_N).view(shape)
        if reduction == "sum":
            return loss_N.sum()
        if weight_N is None:
            return loss_N.sum() / max(len(loss_N), 1)
        of_all = weight_N.sum()
        return loss_N.sum() / torch.where(of_all > 0, of_all, 1.0)

    def _check_not_of_ddp(self) -> int:
        """Raise InputError if DDP has hold of the rows; once, a number of the first row, which DDP makes alike."""
        wrapper = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if wrapper is not None and any(one is self.weight for one in getattr(wrapper, "_module_parameters", ())):
            raise InputError(f"the gradients of this head are averaged over the processes. {_WRAPPED}")
        told, self._unwrapped = not self._unwrapped, True
        row = self.weight.detach()[0].double().tolist() if told else [0]
        return hash(tuple(row)) >> 2 if any(row) else 0

    def _prior(self, adjustment: float | Tensor | None) -> Tensor | None:
        if self._alone() or adjustment is None:
            return super()._prior(adjustment)
        if isinstance(adjustment, Tensor):
            return log_share(self._checked_counts(adjustment)).to(self.classes.device)[self.classes]
        if (counts_V := self._own_counts()) is None:
            return super()._prior(adjustment)
        smoothed_V = counts_V.double() + 1
        return adjustment * (smoothed_V.log() - self._ranks.sum_(smoothed_V.sum()).log())

    def _checked_counts(self, counts: Tensor) -> Tensor:
        if counts.shape != (self._total,) or bool((counts < 0).any()):
            raise InputError(f"counts is {list(counts.shape)}; expected [{self._total}] occurrences, each 0 or more.")
        return counts

    def start_bias(self, counts: Tensor) -> None:
        """As :meth:`Softmax.start_bias`, with the counts [V] of all classes on each rank."""
        if self.bias is None:
            raise InputError("this layer has no bias to start; make it with bias=True.")
        with torch.no_grad():
            self.bias.copy_(log_share(self._checked_counts(counts))[self.classes.to(counts.device)])

    # ── reading ──

    @torch.no_grad()
    def topk(self, hidden: Tensor, k: int) -> torch.return_types.topk:
        """As :meth:`Softmax.topk`: each rank its own activations, which may be none. A collective.

        Of equal logits that of the lower class comes first. Sent are all activations, and of each as many values and
        classes as ranks times k.
        """
        if self._alone():
            return super().topk(hidden, k)
        if not 1 <= k <= self._total:
            raise InputError(f"k is {k}; expected 1 to the number of classes, {self._total}.")
        h_ND = hidden.reshape(-1, hidden.shape[-1])
        shown = self.show(h_ND, torch.zeros(len(h_ND), dtype=torch.int64, device=h_ND.device))
        most = int(self._ranks.max_(torch.tensor(k, device=h_ND.device)))
        best = largest_logits(shown.h_MD, self.weight, self.bias, min(most, len(self.weight)))
        ranks, sizes, rank = self._ranks, shown.sizes, self._ranks.rank
        missing = (0, most - best.values.shape[1])
        values = nn.functional.pad(best.values, missing, value=-torch.inf)
        labels = nn.functional.pad(self.classes[best.indices], missing, value=self._total)
        come = [ranks.send(x, sizes)[0].view(ranks.size, sizes[rank], most).transpose(0, 1) for x in (values, labels)]
        values_NC, labels_NC = (x.reshape(sizes[rank], ranks.size * most) for x in come)
        labels_NC, order_NC = labels_NC.sort(1)
        values_NC, order_NC = values_NC.gather(1, order_NC).sort(dim=1, descending=True, stable=True)
        shape = (*hidden.shape[:-1], k)
        return topk((values_NC[:, :k].reshape(shape), labels_NC.gather(1, order_NC)[:, :k].reshape(shape)))
