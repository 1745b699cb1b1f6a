"""What ties a head to its optimizers: the handle, and what the backward passes since the last step have brought.

Shapes: N examples, U classes that occur, V classes, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from firstsight.heads.steps.exchange import Sums, merge
from firstsight.heads.steps.sparse import any_of_rows

# How many rows of the gradient are looked at to tell whether it was zeroed.
_PROBED = 1024
# How many backward passes that have not reached the weight yet are remembered.
_PASSES = 8


class Handle:
    """What ``attach`` returns: ``remove()`` ends the attachment, and may be called again."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """End the attachment."""
        self._remove()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Handle, (_nothing,)  # a copy of a head is attached to nothing, so that there is nothing to end


def _nothing() -> None:
    pass


class Seen(NamedTuple):
    """What a loss has seen: its class sums, and the examples themselves if the write has yet to look at each of them.

    Of these, parts of activations [N, D] and labels [N], of the write's own: nobody else changes them.
    """

    sums: Sums
    examples: tuple[tuple[Tensor, Tensor], ...] = ()


def together(parts: list[Seen]) -> Seen:
    """What several losses have seen, as one."""
    return Seen(merge([part.sums for part in parts]), tuple(one for part in parts for one in part.examples))


class Pending:
    """The class sums that went backward since the last step, as long as their gradients are there to be stepped.

    ``begin`` is called where a backward pass reaches the head or its weight, before any gradient is added, ``remember``
    for each loss in it, ``landed`` once its gradient has been added to ``weight.grad``: what a pass brings counts from
    then on, and not at all if its gradient never gets there. Entries of earlier passes are forgotten as soon as that
    gradient turns out to have been zeroed: it is None, or rows of it that were not zero when it landed are zero now.
    (A gradient may *be* zero, of one class or of one learnt to the last bit; that alone proves nothing.)
    """

    def __init__(self) -> None:
        self._entries: list[Seen] = []
        self._staged: dict[int, list[Seen]] = {}  # by backward pass: they can be nested, as by checkpointing
        self._pass = -1
        self._was_alive: Tensor | None = None
        self.cleared = 0  # how often in a row gradients were zeroed and no step had used them

    def __bool__(self) -> bool:
        return bool(self._entries)

    def begin(self, weight: Tensor) -> None:
        """Look, once a pass, whether what is pending still has its gradients."""
        if (this_pass := torch._C._current_graph_task_id()) != self._pass:
            self.forget_zeroed(weight)
            self._pass = this_pass

    def remember(self, weight: Tensor, seen: Seen) -> None:
        """Add what one loss saw; several losses of one backward pass belong together."""
        self.begin(weight)
        self._staged.setdefault(self._pass, []).append(seen)
        if len(self._staged) > _PASSES:  # of passes that never reached the weight
            del self._staged[min(self._staged)]

    def landed(self, weight: Tensor) -> None:
        """Take what this pass brought, and note how the gradient looks now that it is complete."""
        if staged := self._staged.pop(torch._C._current_graph_task_id(), []):
            self._entries = [together([*self._entries, *staged])]  # in one: they can hold [D, D] each
        if self._entries:
            self._was_alive = self._alive(weight)

    def take(self) -> list[Seen]:
        """Hand over what the step that was just taken has used, and begin anew."""
        entries, self._entries, self._staged = self._entries, [], {}
        if entries:
            self.cleared = 0
        return entries

    def keep_classes(self, kept: Tensor, num_classes: int, total: Callable[[Tensor], Tensor]) -> None:
        """Forget all but these classes [n] of those there are, and call each by its place among them.

        ``total``: the sum over all processes, where classes are shared out.
        """
        self._staged = {}
        if not self._entries:
            return
        place_V = kept.new_full((num_classes,), -1)
        place_V[kept] = torch.arange(len(kept), device=kept.device)
        for i, ((classes_U, sums_UD, occurrences_U), examples) in enumerate(self._entries):
            now_U = torch.where(classes_U < 0, classes_U, place_V[classes_U.clamp(min=0)])  # below 0: moments
            stays_U = (classes_U < 0) | (now_U >= 0)
            # The sum of h h^T is of all examples: what is left of them has its share of it.
            left, all_ = total(torch.stack([occurrences_U[stays_U].sum(), occurrences_U.sum()]))
            share = left / all_.clamp(min=1)
            sums_UD = torch.where((classes_U < 0)[:, None], sums_UD * share, sums_UD)
            examples = tuple((h_ND[place_V[y_N] >= 0], place_V[y_N][place_V[y_N] >= 0]) for h_ND, y_N in examples)
            self._entries[i] = Seen((now_U[stays_U], sums_UD[stays_U], occurrences_U[stays_U]), examples)

    def clear(self) -> None:
        """Forget all."""
        self._entries, self._staged = [], {}

    def forget_zeroed(self, weight: Tensor) -> None:
        """Forget what is pending if its gradients have been zeroed."""
        if not self._entries:
            return
        was_alive = self._was_alive is not None and bool(self._was_alive)
        if weight.grad is None or (was_alive and not bool(self._alive(weight))):
            self._entries = []
            self.cleared += 1

    def _alive(self, weight: Tensor) -> Tensor:
        assert weight.grad is not None
        of_all = (seen.sums[0] for seen in self._entries)
        rows = torch.cat([classes_U[classes_U >= 0][:_PROBED] for classes_U in of_all])[:_PROBED]
        return any_of_rows(weight.grad, rows)
