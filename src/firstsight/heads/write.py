"""The write as a part of any head: what is pending, how it is exchanged, and when it happens.

Shapes: V classes, D features, U classes that occur; [...] stands for any leading dimensions.
"""

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.utils.hooks import unserializable_hook

from firstsight.errors import InputError, warn
from firstsight.functional.checks import as_labels, check_labels, check_rule
from firstsight.functional.tiling.twice import is_batched
from firstsight.functional.write import check_finite, move_rows_
from firstsight.heads.head import REPLACED
from firstsight.heads.kept.fresh import NEW, TAUGHT, TRAINED, note_written_, sighted
from firstsight.heads.kept.keeping import Keeping
from firstsight.heads.objectives import without_surprise
from firstsight.heads.rule import sparing
from firstsight.heads.steps.attachment import Handle, Seen
from firstsight.heads.steps.exchange import Group, Sums, is_shared, merge
from firstsight.heads.steps.optimizers import holds
from firstsight.heads.steps.sparse import is_any
from firstsight.heads.steps.watch import LIMIT, Watch

NOTHING_WRITTEN = (
    "nothing was written: all these classes were seen T times, or are of a trained layer that was taken over with "
    'counts="trained"; their rows are left to the gradient.'
)


class HebbianWrite(Keeping):
    """A head that writes: to stand before a head with a loss, ``class HebbianSoftmax(HebbianWrite, Softmax)``.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

    _spared = range(0)  # rows that are counted and never written: those that are no classes

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None, after: int = 0) -> Handle:
        """Write after each ``optimizer.step()`` what ``loss`` or ``nll`` saw in training since the last one.

        Gradient accumulation adds up. What no step used is dropped, not kept for the next: forward passes without
        backward, and batches whose gradients were zeroed or whose step a ``GradScaler`` skipped.

        In a job of several processes (``torch.distributed`` is initialised) the write uses the class sums of all
        ranks and is the same, bit for bit, on each. It is a collective: every rank must step as often as the others,
        though it need not have seen anything. Sent is, a rank, as many rows of D as the rank with most classes has; of
        2 D + 1 where the objective is softmax, for which each rank looks at its own examples after the step.

        Args:
            optimizer: the one that holds ``weight``. ``add_classes`` grows its state too.
            group: the processes that train this head together. None: all, once ``torch.distributed`` is initialised.
                **False: this process alone**, for a job whose processes train models of their own.
            after: the first so many steps only count.

        Returns:
            A handle; ``handle.remove()`` ends it.

        Raises:
            InputError: (a ``ValueError``) the optimizer is none of torch's, does not hold ``weight``, or is attached
                already; the weight is frozen, or computed from others; ``after`` is below 0. Later, from a loss or a
                step: the weight is another parameter than the one attached. From a step, on every rank that is in it:
                the heads of the ranks differ, or a rank steps less often (with gloo; ``steps/peers.py``) or is gone.

        Warns:
            UserWarning: once, at the first step that shows it, if the optimizer takes back what is written; at the
                tenth step, if nothing is.
        """
        if not self.weight.requires_grad:
            raise InputError(
                "the head's weight does not require a gradient, so no step says when to write. Unfreeze it with "
                "weight.requires_grad_(), or call head.write(h, y) yourself."
            )
        if after < 0:
            raise InputError(f"after is {after}; expected 0 or more steps that only count.")
        self._settle()
        handle = super().attach(optimizer, group=group, after=after)
        self._group, self._watch = group, Watch(of_attached=True, trained=self._has_stepped())
        return handle

    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer: a classifier in service that meets an example.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above, or hidden is not finite.
        """
        sums = self._prepared(hidden, target)
        if bool((sums[0] >= 0).any()) and self._leaves_alone(sums[0][sums[0] >= 0]):
            warn(NOTHING_WRITTEN)
        self._apply_sums(sums, self.T, training=False)

    def _prepared(self, hidden: Tensor, target: Tensor) -> Sums:
        """What a write of these examples needs, with all that could be wrong found out before anything is changed."""
        check_rule(self.T, self.gamma)
        self._check_own_weight()
        self._settle()
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        sums = self._sums(hidden.detach(), target)
        check_finite(hidden, target, sums[1], self.ignore_index)
        return self._of_step([Seen(sums, self._examples(hidden.detach(), target))], self.T, training=False)

    def observe(self, output: Tensor, hidden: Tensor, target: Tensor) -> None:
        """For a loss computed elsewhere: if backward reaches ``output``, the next step writes (hidden, target).

        ``loss`` and ``nll`` call it themselves; a subclass that overrides it decides what is written. In evaluation,
        unattached or without gradient nothing happens, but under :meth:`looking`. Both are taken as they are now:
        what happens to them later is not written. An example that is not finite is left out, with a warning.

        Args:
            output: what was computed from ``hidden`` and ``weight`` and leads to the loss, such as logits [..., V]. Of
                logits, the first gradients are compared with the labels.
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above, or the weight was replaced since the
                head was attached. From backward: the loss has other labels.
        """
        if self._seen is None and not self._learns(output):
            return
        target = as_labels(target)
        check_labels(hidden, self.weight, target, self.ignore_index)
        if self._seen is not None:
            sums = self._sums(hidden.detach(), target)
            check_finite(hidden, target, sums[1], self.ignore_index)
            self._seen = [merge([*self._seen, sums])]
            return
        seen = self._finite(hidden.detach(), target)
        labels = None
        if output.shape == (*target.shape, self.num_classes) and self._watch.asks_for_labels():
            labels = target.clone()
        # Remembered when the backward pass gets here, so that a loss that is only looked at leaves no trace.
        output.register_hook(lambda grad: self._remember(seen, grad, labels))  # type: ignore[no-untyped-call]

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of activations [..., D]."""
        logits: Tensor = super().forward(hidden)
        if not self._attached and not torch.compiler.is_compiling():
            self._learns(logits)
        return logits

    def _learns(self, output: Tensor) -> bool:
        """Whether a backward pass from here is to be remembered; one that nobody will ever write is counted."""
        if not (self.training and output.requires_grad):
            return False
        if not self._attached:
            if self.weight.requires_grad and not self._watch.of_attached:
                self._watch.count("unattached")
            return False
        if all(attached.weight is not self._current_weight() for attached in self._attached.values()):
            raise InputError(REPLACED)
        if len(self._kept("counts")) != len(self.weight):
            raise InputError(
                f"the layer has {len(self.weight)} rows and counts of {len(self._kept('counts'))}: it was resized "
                "since it was attached (as by resize_token_embeddings). End that, handle.remove(), build the optimizer "
                'anew, and attach again with counts="trained" and new= the rows that it got; or grow by add_classes(n).'
            )
        return True

    def _leaves_alone(self, target: Tensor) -> bool:
        """Whether no write touches any of these classes any more."""
        known = self._kept("counts")[target] >= self.T
        return bool((known | (self._kept("fresh")[target] == TAUGHT) if self._rule.sighted else known).all())

    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        result = super()._cross_entropy(hidden, target, reduction, nll_out, **options)  # type: ignore[safe-super]
        self.observe(result, hidden, target)
        return result

    def _remember(self, seen: Seen, grad: Tensor, labels: Tensor | None) -> None:
        if not self._attached:
            return
        if labels is not None and self._watch.asks_for_labels() and not is_batched(grad):
            self._watch.compare_labels(grad, labels, self.ignore_index)
        self._pending.remember(self.weight, seen)
        if self._pending.cleared >= LIMIT and not self._stepping:  # as a closure does in a step, time and again
            self._watch.say("unstepped")

    def _finite(self, hidden: Tensor, target: Tensor) -> Seen:
        """What is finite of it, and warn of the rest."""
        sums = self._sums(hidden, target)
        if not bool(sums[1].isfinite().all()):
            self._watch.say("not finite")
            finite = hidden.isfinite().all(-1)
            hidden, target = hidden.where(finite[..., None], 0), target.where(finite, self.ignore_index)
            sums = self._sums(hidden, target)
            if not bool(sums[1].isfinite().all()):  # too large to be added up
                return Seen(self._nothing())
        return Seen(sums, self._examples(hidden, target))

    def _hooks(
        self, optimizer: torch.optim.Optimizer, given: "weakref.ref[Any]", group: Group, after: int
    ) -> list[Any]:
        weight = self.weight
        # not serializable, which torch would warn of where a parameter is sent
        begin = unserializable_hook(lambda _: self._pending.begin(weight))  # type: ignore[no-untyped-call]
        # What a probe computes is not in step with other processes where this one is attached alone.
        probes = not (group is False and is_shared(None))
        return [
            *super()._hooks(optimizer, given, group, after),
            weight.register_hook(begin),  # type: ignore[no-untyped-call]
            weight.register_post_accumulate_grad_hook(self._pending.landed),  # type: ignore[no-untyped-call]
            optimizer.register_step_pre_hook(partial(self._before_step, weight, given, probes)),
            optimizer.register_step_post_hook(partial(self._after_step, group=group, counting=[after])),
        ]

    @_disable_dynamo
    def _before_step(
        self, weight: Tensor, given: "weakref.ref[Any]", probes: bool, optimizer: torch.optim.Optimizer, *_: Any
    ) -> None:
        if self._current_weight() is not weight or not weight._backward_hooks:
            raise InputError(REPLACED)
        # Now, for there are optimizers whose step clears the gradients.
        self._pending.forget_zeroed(weight)
        self._moves = weight.grad is not None and (bool(self._pending) or is_any(weight.grad))
        if not self._stepping:
            cleared, self._pending.cleared = self._pending.cleared, 0
            self._watch.before_step(weight, optimizer, given, cleared, probes)
        self._stepping = True

    @_disable_dynamo
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any, group: Group, counting: list[int]) -> None:
        if not self._stepping:  # a step that called that of its parent class, after which all was done
            return
        self._stepping = False
        # A count is 1 at least: nothing is below a T of 0, so that nothing is written.
        T = 0 if counting[0] else self.T
        counting[0] = max(0, counting[0] - 1)
        # Fused optimizers are stepped on overflow too, and do nothing: GradScaler leaves them the verdict.
        overflow = getattr(optimizer, "found_inf", None)
        skipped = (overflow is not None and bool(overflow)) or not holds(optimizer, self.weight)
        pending = self._pending.take()
        if self._moves and not pending:
            self._watch.count("unseen")
        if is_shared(group):
            own = self._of_step([] if skipped else pending, T, training=True)
            sums = self._exchanged(own, skipped, group, counting[0])
        elif pending and not skipped:
            sums = self._of_step(pending, T, training=True)
        else:
            return
        self._looks.stepped()
        self._watch.sample(self.weight, sums)
        if len(classes_U := sums[0][sums[0] >= 0]) and self._watch.is_early():
            self._watch.count("nothing new", self._leaves_alone(classes_U))
        self._apply_sums(sums, T, training=True)
        self._watch.sampled(self.weight)
        self._note_step()

    @torch.no_grad()
    def _apply_sums(self, sums: Sums, T: float, *, training: bool) -> None:
        """The write of a step's class sums: every write, of whatever rule, comes through here."""
        sums, gated = without_surprise(sums, self.in_features) if self.objective == "softmax" else (sums, None)
        with torch.autocast(self.weight.device.type, enabled=False):
            written_U, sight = self._look(sums[0], T, training) if self._rule.sighted else (sums[0], None)
            unchanged = self._looks.keep(self.weight, self.bias)
            (classes_U, sums_UD, occurrences_U), moments = self._take_in(sums, training)
            before_UD = self.weight[classes_U] if self._record else None
            move = self._rule.moving(gamma=self.gamma, prior_count=self.prior_count, moments=moments, gated=gated)
            if self._rule.sighted:
                kept = self._kept("fresh"), self._biases(), self._claims()
                move = sighted(move, sight, *kept, lifted=self.bias is None, training=training)
            if self._spared:
                move = sparing(move, self._spared)
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

    def _bereave(self, key: int) -> None:
        super()._bereave(key)
        if not self._attached:
            self._watch = Watch()  # nobody ended it on purpose: another optimizer is likely to step now

    def _detach(self, key: int) -> None:
        super()._detach(key)
        self._pending.clear()
