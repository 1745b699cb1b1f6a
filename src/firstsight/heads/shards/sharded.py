"""The sharded heads: a softmax whose classes are shared out over the processes of a job, and the one that writes.

Shapes: N tokens of a rank, V classes, V_r of them on rank r, U that are written, D features; [...] any leading
dimensions.
"""

from types import SimpleNamespace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, as_labels, check_rule
from firstsight.functional.inner_step import Objective
from firstsight.functional.rows import STAND_INS, Rows, moments_of_rows, stand_ins_for
from firstsight.functional.write import check_finite
from firstsight.heads.head import check_parameters
from firstsight.heads.kept.known import Counts, known
from firstsight.heads.kept.state import steps_of
from firstsight.heads.shards.loss import Shown
from firstsight.heads.shards.parts import Parts
from firstsight.heads.shards.ranks import Ranks
from firstsight.heads.softmax import Softmax
from firstsight.heads.steps.exchange import Group, Sums
from firstsight.heads.steps.peers import WRITE
from firstsight.heads.write import HebbianWrite


class ShardedSoftmax(Parts, Softmax):
    r"""A :class:`Softmax` of which each process of a group has every R-th class: weight, bias and optimizer state.

    For layers too large for one process, or for its optimizer: with R processes each holds V / R rows. The body is
    trained as ever, with each process's own tokens, ``DistributedDataParallel`` around it; the head gives the losses,
    the gradients and the rows that a whole one would have there. What travels does not grow with V: the activations of
    all tokens, two or three numbers of each, and its gradient (``shards/loss.py``).

    **Every call of it is one of all processes**: loss, nll and topk, in training and evaluation, ``backward()``, and
    growth. One that has no tokens brings none, hidden [0, D].

    ``loss`` is, as ever, the mean over the process's own tokens; the gradients of rows are the mean over processes of
    those of their losses, as ``DistributedDataParallel`` makes them. Of a head inside the model that this wraps, call
    ``firstsight.prepare_ddp(model)`` before, or it would take the mean over rows of different classes.

    Source: Deng et al., "ArcFace" (CVPR 2019), and An et al., "Partial FC" (2021), for classes on several devices; the
    rest is our decision. Logits of all classes (``head(h)``, ``log_prob``) and second derivatives of the loss are not
    there for more than one process.

    Args:
        in_features: D.
        num_classes: V, of all processes together; each has one at least.
        samples: S, as of :class:`SampledSoftmax`: ``loss`` in training is over the targets and S / R sampled classes of
            each process. None: over all.
        sampler, seed, sparse: as there, without occurrences; "log_uniform" for classes by falling frequency.
        group: the processes; None: all of the job, or this alone where there is none. Made after
            ``init_process_group``. False: this process alone, whatever the job.
        bias, compute_dtype, device, dtype: as ``Softmax``.
        ignore_index: as ``Softmax``, and below 0.

    Attributes:
        weight: [V_r, D] parameter. bias: [V_r] parameter or None.
        classes: [V_r] int64 buffer: the classes of these rows, rising; at first, and of new ones, those v with
            v % R == rank. After ``remove_classes`` they are numbered anew, and stay where they are.
        part: [3] int64 buffer: rank, R and V.

    Raises:
        InputError: (a ``ValueError``) as ``Softmax``, fewer classes than processes, or an ignore_index that is a class.
            From a loss: what ranks gave does not fit together; one of them refused it, is past it or gone; the layer
            was wrapped as if it were the same on all.
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, group: Group = None) -> Self:
        """Take over an ``nn.Linear`` that is the same on all processes: copies of this one's rows.

        Of a group of one process its parameters themselves, as :meth:`Softmax.from_linear`.
        """
        D, V = linear.in_features, linear.out_features
        if Ranks(group).size == 1:
            return cls(D, V, bias=False, device="meta", group=group)._have(linear)
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        head = cls(D, V, bias=linear.bias is not None, group=group, **like)
        head._copy(linear)
        return head

    def _have(self, linear: nn.Linear) -> Self:
        self._take_over(linear)
        self._number(self.classes)
        return self


class HebbianShardedSoftmax(Parts, HebbianWrite, Softmax):
    """A :class:`ShardedSoftmax` that writes, as :class:`HebbianSoftmax` does: each process the rows that it has.

    Counts, moments and new classes are those of the whole head: the sums of a class are made where its row is, of the
    activations that the loss brought there, and are not sent; the moments of all activations are, [1 + 2D, 1 + D] at
    most. ``write`` is a call of all processes too, each with its own examples or none.

    Arguments, attributes and errors of both. The buffers of classes are of those of this process. With ``samples``
    there is no ``objective="softmax"``, as for :class:`HebbianSampledSoftmax`.
    """

    def __init__(self, *args: Any, objective: Objective = "l2", samples: int | None = None, **options: Any) -> None:
        if samples is not None and objective == "softmax":
            raise InputError(
                "objective is 'softmax', whose step needs each example's probability among all classes, and with "
                "samples they are not all looked at. Leave samples out, or take the objective l2 or inner_product."
            )
        super().__init__(*args, objective=objective, samples=samples, **options)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        counts: Counts | None = None,
        *,
        new: Classes = (),
        T: float | None = None,
        gamma: float | None = None,
        group: Group = None,
        **options: Any,
    ) -> Self:
        """As :meth:`HebbianSoftmax.from_linear`, of a layer that is the same on all processes: copies of its rows.

        Of a group of one process its parameters themselves.
        """
        if Ranks(group).size == 1:
            head = super().from_linear(linear, counts, new=new, T=T, gamma=gamma, group=group, **options)
            head._number(head.classes)
            return head
        check_parameters(linear)
        counts_V, fresh_V = known(linear, counts, new)
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype, **options}
        D, V = linear.in_features, linear.out_features
        head = cls(D, V, T, gamma, linear.bias is not None, group=group, **like)
        head._copy(linear)
        head._know(counts_V, fresh_V)
        return head

    def _know(self, counts_V: Tensor, fresh_V: Tensor) -> None:
        """Start with these of all classes."""
        self._keep_nothing(counts_V[self.classes], fresh_V[self.classes])

    def set_counts(self, counts: Counts, *, new: Classes = ()) -> None:
        """As :meth:`HebbianSoftmax.set_counts`, with those of all classes, on each process."""
        if self._alone():
            super().set_counts(counts, new=new)
            return
        whole = SimpleNamespace(weight=torch.empty(self._total, 0, device=self.weight.device))
        of_all = known(cast(nn.Module, whole), counts, new)
        looked = self._kept("counts") is self._settled and self._rule.needs != "nothing"
        moments = self._kept("moments") if looked else None
        self._know(*of_all)
        self._keep("moments", moments)
        self._looks.forget()

    def _clock(self) -> Tensor:
        return steps_of(self._kept("settings"))

    def _by_class(self) -> set[str]:
        return {*super()._by_class(), "counts", *self._of_sight()} | ({"written"} if self._record else set())

    def _fit(self, n: int) -> None:
        super()._fit(n)
        self._pending.clear()
        self._watch.forget_rows()
        self._keep_nothing(torch.ones(n, dtype=torch.int64, device=self.weight.device))

    def _terms(self) -> dict[str, Any]:
        return {**super()._terms(), "processes": self._ranks.size}

    def _over_all(self, x: Tensor) -> Tensor:
        return x if self._alone() else self._ranks.sum_(x.clone())

    def _exchanged(self, sums: Sums, skip: bool, group: Group, after: int = 0) -> Sums:
        if self._alone():
            return super()._exchanged(sums, skip, group, after)
        terms = {**self._terms(), "after": after}
        _, skips = self._ranks.begin(len(sums[0]), skip, terms, self._clock(), WRITE)
        return (sums[0][:0], sums[1][:0], sums[2][:0]) if any(skips) else sums

    def _note_shown(self, result: Tensor, shown: Shown) -> None:
        super().observe(result, *shown.owned())

    def _nll_of(self, hidden: Tensor, target: Tensor) -> Tensor:
        if self._alone():
            return super()._nll_of(hidden, target)
        shown = self.show(hidden, self.classes[target])
        return self._shared(hidden, shown, "none", None, {})

    def observe(self, output: Tensor, hidden: Tensor, target: Tensor) -> None:
        """As :meth:`HebbianSoftmax.observe`; a collective, to which each process brings its own examples."""
        if self._alone():
            super().observe(output, hidden, target)
        else:
            self._note_shown(output, self.show(hidden, target))

    @torch.no_grad()
    def write(self, hidden: Tensor, target: Tensor) -> None:
        """As :meth:`HebbianSoftmax.write`; a collective: each process brings its own examples, or none."""
        if self._alone():
            super().write(hidden, target)
            return

        def check() -> None:
            check_rule(self.T, self.gamma)
            self._check_own_weight()
            self._settle()
            labels = as_labels(target)
            keep = labels != self.ignore_index
            check_finite(hidden, labels, hidden[keep], self.ignore_index)

        super().write(*self.show(hidden, target, check).owned())

    def _rows_to_look_at(self) -> Rows:
        """Once a look, and not a step, the occurrences of all V classes go to each process."""
        if self._alone():
            return super()._rows_to_look_at()
        sizes, occurrences_V = self._ranks.sizes(len(self.classes), self.classes.device), self._occurrences()
        whole_V = occurrences_V.new_zeros(self._total)
        whole_V[self._ranks.gather(self.classes, sizes)] = self._ranks.gather(occurrences_V, sizes)
        share_V = whole_V.double() / whole_V.sum()
        row_D, T_DD = moments_of_rows(self.weight.detach(), share_V[self.classes], self._over_all)
        at_S, times_S = stand_ins_for(share_V, STAND_INS)
        place_S = self.places(at_S)
        own_S = place_S >= 0
        rows_SD = row_D.new_zeros(len(at_S), len(row_D))
        rows_SD[own_S] = self.weight.detach()[place_S[own_S]].double()
        bias_S = None
        if self.bias is not None:
            bias_S = row_D.new_zeros(len(at_S))
            bias_S[own_S] = self.bias.detach()[place_S[own_S]].double()
            bias_S = self._over_all(bias_S)
        trained = int((whole_V > 0).sum())
        return Rows(row_D, T_DD, self._over_all(rows_SD), bias_S, share_V[at_S], times_S, trained)

    def _drawing_nothing(self) -> None:
        super()._drawing_nothing()
        self._check_not_looking()
        if self._rule.sighted:
            self._has_taught()
