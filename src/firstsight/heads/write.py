"""The write as a part of any head: what is pending, how it is exchanged, and when it happens.

Shapes: V classes, D features, U classes that occur; [...] stands for any leading dimensions.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import class_sums
from firstsight.functional.checks import as_labels, check_labels, check_rule
from firstsight.functional.write import move_rows_
from firstsight.heads.attachment import Handle
from firstsight.heads.exchange import Group, Sums, exchange, is_shared, merge
from firstsight.heads.kept.fresh import NEW, TAUGHT, TRAINED, note_written_, sighted
from firstsight.heads.kept.keeping import Keeping
from firstsight.heads.kept.moments import with_second_moment


class HebbianWrite(Keeping):
    """A head that writes: to stand before a head with a loss, ``class HebbianSoftmax(HebbianWrite, Softmax)``.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

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
        handle = super().attach(optimizer, group=group, after=after)
        self._group = group
        return handle

    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer: a classifier in service that meets an example.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above, or hidden is not finite.
        """
        check_rule(self.T, self.gamma)
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        self._check_finite(hidden, target)
        seen_N = target[target != self.ignore_index]
        if len(seen_N) and self._leaves_alone(seen_N):
            warnings.warn(
                "nothing was written: all these classes were seen T times, or are of a trained layer that was taken "
                'over with counts="trained"; their rows are left to the gradient.',
                stacklevel=2,
            )
        self._apply_sums(self._sums(hidden.detach(), target), self.T, training=False)

    @contextmanager
    def looking(self, *, group: Group = None) -> Iterator[None]:
        """Show a trained layer what it was trained on, so that it knows what to make of classes that come later.

        For a layer that was taken over (``from_linear``, ``attach``): under ``with head.looking():`` run a pass over
        its training data, or some thousands of examples of it, through ``loss``, ``nll`` or the model. Nothing is
        written, and no gradient is needed. At the end the layer's moments are those of what it saw, and classes whose
        counts are not known (``counts="trained"``) count what was seen of them. A layer that was trained with the
        rule does not need it.

        Args:
            group: as :meth:`attach`, and by default what was given there; at the end a collective, at which every rank
                brings what it saw.

        Raises:
            InputError: (a ``ValueError``) the rule keeps no moments, the layer is looking already, or saw nothing.
        """
        if self._rule.needs == "nothing":
            raise InputError(f"the rule {self.rule} keeps nothing of what it sees, so there is nothing to look for.")
        if self._seen is not None:
            raise InputError("this layer is looking already; one looking() at a time.")
        group = self._group if group is None else group
        self._seen = [self._sums(self.weight.detach()[:0], self._kept("counts")[:0])]
        try:
            yield
            sums = exchange(self._seen[0], False, group) if is_shared(group) else self._seen[0]
        finally:
            self._seen = None
        if not (examples := int(sums[2].sum())):
            raise InputError(
                "looking() saw no example. Under it run data through loss, nll or an attached model, with labels."
            )
        if examples < 4 * self.in_features:
            warnings.warn(
                f"looking() saw {examples} examples of {self.in_features} features: too few to tell what new classes "
                "would do. Some thousands are better.",
                stacklevel=3,
            )
        self._start_moments(sums)

    def observe(self, output: Tensor, hidden: Tensor, target: Tensor) -> None:
        """For a loss computed elsewhere: if backward reaches ``output``, the next step writes (hidden, target).

        ``loss`` and ``nll`` call it themselves; a subclass that overrides it decides what is written. In evaluation,
        unattached or without gradient nothing happens, but under :meth:`looking`.

        Args:
            output: what was computed from ``hidden`` and ``weight`` and leads to the loss, such as logits [..., V].
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        if self._seen is None and not (self._attached and self.training and output.requires_grad):
            return
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        if self._seen is not None:
            self._check_finite(hidden, target)
            self._seen = [merge([*self._seen, self._sums(hidden.detach(), target)])]
            return
        seen = hidden.detach(), target
        # Remembered when the backward pass gets here, so that a loss that is only looked at leaves no trace.
        output.register_hook(lambda _: self._remember(*seen))  # type: ignore[no-untyped-call]

    def _leaves_alone(self, target: Tensor) -> bool:
        """Whether no write touches any of these classes any more."""
        known = self._kept("counts")[target] >= self.T
        return bool((known | (self._kept("fresh")[target] == TAUGHT) if self._rule.sighted else known).all())

    def _check_finite(self, hidden: Tensor, target: Tensor) -> None:
        if not bool(hidden[target != self.ignore_index].isfinite().all()):
            raise InputError("hidden holds NaN or infinity; what is written into rows has to be finite.")

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
                kept = self._kept("fresh"), self._biases(), self._claims()
                move = sighted(move, sight, *kept, lifted=self.bias is None, training=training)
            means = classes_U, sums_UD / occurrences_U[:, None], occurrences_U
            move_rows_(self.weight, self.bias, self._kept("counts"), means, move, T=T)
            if sight is not None and not training:
                self._share_out(sight, written_U)
        if before_UD is not None:
            self._kept("written")[classes_U] += self.weight[classes_U] - before_UD
        if sight is not None and note_written_(self._kept("fresh"), written_U):
            unchanged()
        elif self._rule.sighted and sight is None and training:  # learnt by gradients now: no first sight any more
            fresh_V = self._kept("fresh")
            fresh_V[written_U[fresh_V[written_U] == NEW]] = TRAINED

    def _detach(self, key: int) -> None:
        super()._detach(key)
        self._pending.clear()
