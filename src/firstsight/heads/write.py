"""The write as a part of any head: what it keeps, what is pending, how it is exchanged, and when it happens.

Shapes: V classes, D features, U classes that occur; [...] stands for any leading dimensions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import class_sums
from firstsight.functional.checks import as_labels, check_labels, check_rule
from firstsight.functional.first_sight import Sight
from firstsight.functional.write import move_rows_
from firstsight.heads.attachment import Handle, Pending
from firstsight.heads.exchange import Group, Sums, exchange, is_shared, merge
from firstsight.heads.fresh import KEPT, NEW, Looks, coming, note_written_, sighted
from firstsight.heads.head import Head
from firstsight.heads.moments import Moments, no_moments, with_second_moment
from firstsight.heads.rules import check_prior, find_rule
from firstsight.heads.state import state_errors


class HebbianWrite(Head):
    """A head that writes: to stand before a head with a loss, ``class HebbianSoftmax(HebbianWrite, Softmax)``.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

    counts: Tensor
    moments: Tensor
    written: Tensor
    _version = 1  # of the layout of state_dict: what Attributes lists
    _prefix = ""  # of the names of what is kept, as buffers of ``_keeper``

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        T: float = 500,
        gamma: float = 0.01,
        bias: bool = True,
        *,
        rule: str = "paper",
        prior_count: float = 10.0,
        record: bool = False,
        **options: Any,
    ) -> None:
        check_rule(T, gamma)
        check_prior(rule, prior_count, bias)
        self.T, self.gamma, self.rule, self.prior_count = T, gamma, rule, prior_count
        self._rule, self._record, self._pending = find_rule(rule), record, Pending()
        self._looks = Looks()
        super().__init__(in_features, num_classes, bias, **options)

    @property
    def _keeper(self) -> nn.Module:
        """The module whose buffers hold what the write keeps."""
        return self

    def _kept(self, name: str) -> Tensor:
        kept: Tensor = getattr(self._keeper, self._prefix + name)
        return kept

    def _keep(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            self._keeper.register_buffer(self._prefix + name, value)

    def _of_sight(self) -> list[str]:
        """The names of what the rule "sight" keeps of each class."""
        return [name for name in KEPT if self._rule.sighted and (name == "fresh" or self.bias is None)]

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0, counts 1."""
        super().reset_parameters()
        self._looks.forget()
        self._keep_nothing(torch.ones(self.num_classes, dtype=torch.int64, device=self.weight.device))

    def _keep_nothing(self, counts: Tensor) -> None:
        """Start what is kept beside the rows, with these counts."""
        self._keep("counts", counts)
        self._keep("moments", no_moments(self.weight, self._rule.needs))
        self._keep("written", torch.zeros_like(self.weight.detach()) if self._record else None)
        for name in self._of_sight():
            self._keep(name, torch.zeros(self.num_classes, dtype=KEPT[name], device=self.weight.device))

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None, after: int = 0) -> Handle:
        """Write after each ``optimizer.step()`` what ``loss`` or ``nll`` saw in training since the last one.

        Gradient accumulation adds up. What no step used is dropped, not kept for the next: forward passes without
        backward, and batches whose gradients were zeroed or whose step a ``GradScaler`` skipped.

        In a job of several processes (``torch.distributed`` is initialised) the write uses the class sums of all
        ranks and is the same, bit for bit, on each. It is a collective: every rank must step as often as the others,
        though it need not have seen anything. Sent is, a rank, as many rows of D as the rank with most classes has.

        Args:
            optimizer: the one that holds ``weight``. ``add_classes`` grows its state too.
            group: the processes that train this head together. None: all, once ``torch.distributed`` is initialised.
                **False: this process alone**, for a job whose processes train models of their own.
            after: the first so many steps only count.

        Returns:
            A handle; ``handle.remove()`` ends it.

        Raises:
            InputError: (a ``ValueError``) the optimizer does not hold ``weight``, is attached already, the weight is
                frozen, or ``after`` is below 0.
        """
        if not self.weight.requires_grad:
            raise InputError(
                "the head's weight does not require a gradient, so no step says when to write. Unfreeze it with "
                "weight.requires_grad_(), or call head.write(h, y) yourself."
            )
        if after < 0:
            raise InputError(f"after is {after}; expected 0 or more steps that only count.")
        return super().attach(optimizer, group=group, after=after)

    def add_classes(self, n: int) -> None:
        """As :meth:`Softmax.add_classes`; the new classes' counts are 1: their first sight writes their rows."""
        unchanged = self._looks.keep(self.weight, self.bias)
        super().add_classes(n)
        counts = self._kept("counts")
        self._keep("counts", torch.cat([counts, counts.new_ones(n)]))
        if self._record:
            written = self._kept("written")
            self._keep("written", torch.cat([written, written.new_zeros(n, self.in_features)]))
        if self._rule.sighted:
            for name in self._of_sight():
                kept = self._kept(name)
                self._keep(name, torch.cat([kept, kept.new_full((n,), NEW if name == "fresh" else 0)]))
            unchanged()

    def _keep_classes(
        self, kept: Tensor, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self._pending.keep_classes(kept, self.num_classes)
        super()._keep_classes(kept, parameters, optimizers)
        for name in ["counts"] + ["written"] * self._record + self._of_sight():
            self._keep(name, self._kept(name)[kept])
        self._looks.forget()

    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer: a classifier in service that meets an example.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        check_rule(self.T, self.gamma)
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        self._apply_sums(self._sums(hidden.detach(), target), self.T, training=False)

    def observe(self, output: Tensor, hidden: Tensor, target: Tensor) -> None:
        """For a loss computed elsewhere: if backward reaches ``output``, the next step writes (hidden, target).

        ``loss`` and ``nll`` call it themselves; a subclass that overrides it decides what is written. In evaluation,
        unattached or without gradient nothing happens.

        Args:
            output: what was computed from ``hidden`` and ``weight`` and leads to the loss, such as logits [..., V].
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        if not (self._attached and self.training and output.requires_grad):
            return
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        seen = hidden.detach(), target
        # Remembered when the backward pass gets here, so that a loss that is only looked at leaves no trace.
        output.register_hook(lambda _: self._remember(*seen))  # type: ignore[no-untyped-call]

    def _own_counts(self) -> Tensor:
        return self._kept("counts") - 1

    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        result = super()._cross_entropy(hidden, target, reduction, nll_out, **options)  # type: ignore[safe-super]
        self.observe(result, hidden, target)
        return result

    def _remember(self, hidden: Tensor, target: Tensor) -> None:
        if self._attached:
            self._pending.remember(self.weight, self._sums(hidden, target))

    def _sums(self, hidden: Tensor, target: Tensor) -> Sums:
        hidden = hidden.to(torch.promote_types(self.weight.dtype, torch.float32))
        sums = class_sums(hidden, target, ignore_index=self.ignore_index)
        if self._rule.needs in ("nothing", "mean"):
            return sums
        return with_second_moment(sums, hidden[target != self.ignore_index])

    def _hooks(self, optimizer: torch.optim.Optimizer, group: Group, after: int) -> list[Any]:
        return [
            *super()._hooks(optimizer, group, after),
            self.weight.register_hook(lambda _: self._pending.begin(self.weight)),  # type: ignore[no-untyped-call]
            self.weight.register_post_accumulate_grad_hook(self._pending.landed),  # type: ignore[no-untyped-call]
            optimizer.register_step_post_hook(partial(self._after_step, group=group, counting=[after])),
        ]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any, group: Group, counting: list[int]) -> None:
        # A count is 1 at least: nothing is below a T of 0, so that nothing is written.
        T = 0 if counting[0] else self.T
        counting[0] = max(0, counting[0] - 1)
        # Fused optimizers are stepped on overflow too, and do nothing: GradScaler leaves them the verdict.
        overflow = getattr(optimizer, "found_inf", None)
        skipped = overflow is not None and bool(overflow)
        pending = self._pending.take(self.weight)
        if is_shared(group):
            nothing = self._sums(self.weight.detach()[:0], self._kept("counts")[:0])
            sums = exchange(merge(pending or [nothing]), skipped, group)
        elif pending and not skipped:
            sums = merge(pending)
        else:
            return
        self._looks.stepped()
        self._apply_sums(sums, T, training=True)

    @torch.no_grad()
    def _apply_sums(self, sums: Sums, T: float, *, training: bool) -> None:
        """The write of a step's class sums: every write, of whatever rule, comes through here."""
        with torch.autocast(self.weight.device.type, enabled=False):
            written_U, sight = self._look(sums[0], T, training) if self._rule.sighted else (sums[0], None)
            unchanged = self._looks.keep(self.weight, self.bias)
            (classes_U, sums_UD, occurrences_U), moments = self._take_in(sums, training)
            before_UD = self.weight[classes_U] if self._record else None
            move = self._rule.moving(gamma=self.gamma, prior_count=self.prior_count, moments=moments)
            if self._rule.sighted:
                biases_V = self._kept("lifted") if self.bias is None else self.bias
                move = sighted(move, sight, self._kept("fresh"), biases_V, self.bias is None)
            means = classes_U, sums_UD / occurrences_U[:, None], occurrences_U
            move_rows_(self.weight, self.bias, self._kept("counts"), means, move, T=T)
        if before_UD is not None:
            self._kept("written")[classes_U] += self.weight[classes_U] - before_UD
        if sight is not None and note_written_(self._kept("fresh"), written_U, training):
            unchanged()

    def _take_in(self, sums: Sums, training: bool) -> tuple[Sums, Moments | None]:
        """The classes' own sums, and the moments that the rule uses, after this step; None before the first.

        The moments that a first write looks at are those of training: once they are there and classes are new, what is
        written by a call of ``write`` does not enter them.
        """
        if self._rule.needs == "nothing":
            return sums, None
        self._keep("moments", self._kept("moments").to(sums[1].dtype))  # .half() of a model reaches its buffers
        moments = Moments(self._kept("moments"))
        if self._rule.sighted and not training and not moments.empty() and bool(self._kept("fresh").any()):
            own_U = sums[0] >= 0
            return (sums[0][own_U], sums[1][own_U], sums[2][own_U]), moments
        sums = moments.take_in_(sums, self.weight)
        return sums, None if moments.empty() else moments

    def _look(self, classes_U: Tensor, T: float, training: bool) -> tuple[Tensor, Sight | None]:
        """Those of the classes that are written, and a look at the layer, if one of them is new."""
        fresh_V, counts_V = self._kept("fresh"), self._kept("counts")
        classes_U = classes_U[classes_U >= 0]
        classes_U = classes_U[counts_V[classes_U] < T]
        coming_V = coming(fresh_V)
        if not bool(coming_V[classes_U].any()):
            return classes_U, None
        occurrences_V, moments = (counts_V - 1).masked_fill(coming_V, 0), Moments(self._kept("moments"))
        return classes_U, self._looks.take(self.weight, self.bias, occurrences_V, moments, training)

    def _detach(self, key: int) -> None:
        super()._detach(key)
        self._pending.clear()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        errors = state_errors(
            state_dict,
            prefix,
            num_classes=self.num_classes,
            T=self.T,
            record=self._record,
            version=local_metadata.get("version", 1),
            newest=self._version,
        )
        rest[-1].extend(errors)  # torch's list of messages
        self._looks.forget()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pending": Pending(), "_looks": Looks()}

    def extra_repr(self) -> str:
        """The sizes and the rule, for ``print``."""
        return f"{super().extra_repr()}, T={self.T}, gamma={self.gamma}, rule={self.rule}"
