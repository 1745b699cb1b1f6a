"""Nothing silent: what a head in training sees and never writes, and what is taken back of it, is said once.

Shapes: U classes that occur, V classes, D features; [...] stands for any leading dimensions.
"""

import weakref
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import InputError, warn
from firstsight.heads.steps.exchange import Sums
from firstsight.heads.steps.optimizers import ENOUGH, survival

# So many times in a row before it is said: the first steps of a GradScaler are skipped, and that is nothing wrong.
LIMIT = 10
# For so many steps it is looked whether rows are what was written; so many rows. For so many passes, at the labels.
_STEPS, _ROWS, _PASSES = 64, 64, 3
# Of the gradient that pulls one logit up, the share that has to be one class's to say which label the loss had.
_ONE = 0.9
# Of rows that were taken away and given back, as SAM does: how far they may be off, in units of the last place.
_ROUNDED = 8
_TURNED = 1e-4  # of one minus the cosine of rows before and after
# Of so few classes a gradient says little of a label, where labels are smoothed; so many examples have to be seen.
_FEW_CLASSES, _ENOUGH_LABELS = 6, 8

_SAID = {
    "unattached": (
        "this head has been trained on ten times and is attached to no optimizer, so nothing is written into its rows. "
        "Call head.attach(optimizer) once the optimizer is built, and for each that takes its place (a copy of a head "
        "is attached to nothing). To train by gradients alone use firstsight.Softmax."
    ),
    "unseen": (
        "ten steps have moved this head's rows by gradients, and it was shown nothing to write in them: its logits go "
        "to a loss that it does not know of, it is in evaluation mode, or it was attached too late (attach before "
        "torch.compile, and before hooks that step in the backward pass). Use head.loss or head.nll; for a loss of "
        "your own head.observe(logits, hidden, target); with firstsight.attach call the model itself, with labels."
    ),
    "unstepped": (
        "ten times the gradients of this head were cleared without a step of the optimizer that it is attached to, so "
        "nothing was written. Does another optimizer step? Attach to that one; with SAM to its base_optimizer. (Steps "
        "that a GradScaler skips, because the loss overflows, look the same.)"
    ),
    "stepped": (
        "ten times this head's rows were moved by something else than the optimizer that it is attached to, and what "
        "those passes saw was not written. If another optimizer steps too, attach to that one as well."
    ),
    "nothing new": (
        "ten steps wrote nothing: each class that they saw was seen T times before, or is of a layer that was trained "
        "and taken over. Name the classes that it got since, new=, or add them by add_classes; or give their "
        "occurrences as counts; or choose a larger T (1 + occurrences are counted, over all epochs). Where no class is "
        "new or rare there is nothing to write, and the layer is a plain one."
    ),
    "few classes": (
        "the loss raises the logit of another class for most labels that this head was given. Are they of this batch, "
        "and in the order that the loss has? (Smoothed labels of a layer that is sure of them look the same.)"
    ),
    "uncalled": (
        "labels were handed over ten times and the output layer was not called: nothing was written. If the layer was "
        "replaced, or the model does not call it, attach to the one that it calls."
    ),
    "not finite": (
        "an example that is NaN or infinite was left out of the write. The head is as if it had not been shown; "
        "whatever made it is likely to have reached the gradients."
    ),
}


class Watch:
    """Of one head since it was made, or last attached: one that was let go by ``handle.remove()`` is so on purpose."""

    def __init__(self, of_attached: bool = False, trained: bool = False) -> None:
        self.of_attached, self._trained = of_attached, trained
        self._labels: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._said: set[str] = set()
        self._steps = self._passes = 0
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    def count(self, what: str, happened: bool = True) -> None:
        """Say it when it has happened often enough; in a row, where it is also told when it has not."""
        self._times[what] = self._times[what] + 1 if happened else 0
        if self._times[what] >= LIMIT:
            self.say(what)

    def say(self, what: str, text: str = "") -> None:
        """Warn, once."""
        if what not in self._said:
            self._said.add(what)
            warn(text or _SAID[what])

    def before_step(
        self, weight: Tensor, optimizer: torch.optim.Optimizer, given: "weakref.ref[Any]", cleared: int, probes: bool
    ) -> None:
        """Ask, at the first step, whether the optimizer keeps what is written; later whether anything else does."""
        if not self._steps and probes and not weight.is_meta:
            wrapper = given()
            kept = survival(wrapper, weight) if isinstance(wrapper, torch.optim.Optimizer) else None
            kept = survival(optimizer, weight) if kept is None else kept
            if kept is not None and kept < ENOUGH:
                self._undone(f"the optimizer, {type(wrapper or optimizer).__name__}, keeps weights of its own", kept)
        self._steps += 1
        if self._rows is None:
            return
        (rows, before_UD, after_UD), self._rows = self._rows, None
        written_UD, since_UD = after_UD - before_UD, weight.detach()[rows] - after_UD
        size, moved = written_UD.square().sum(), since_UD.square().sum()
        rounded = (_ROUNDED * torch.finfo(weight.dtype).eps) ** 2
        if cleared and bool(moved > rounded * after_UD.square().sum()):
            self.count("stepped")
        # What moves rows by far more than that is something else: a state that was loaded, rows that are scaled.
        elif bool(size > 0) and bool(moved > 0) and bool(moved < 16 * size):
            kept = 1 + float((written_UD * since_UD).sum() / size)
            turned_U = 1 - F.cosine_similarity(after_UD, after_UD + since_UD, dim=1)
            if kept < ENOUGH and bool((turned_U > _TURNED).any()):  # rows that are given another length keep theirs
                self._undone("between two steps of the optimizer rows went back", kept)

    def _undone(self, what: str, kept: float) -> None:
        self.say(
            "undone",
            f"{what}: of what is written into a row {max(kept, 0):.0%} is left, and the head hardly remembers. Train "
            "this head's parameters with an optimizer that steps from the weights as they are, such as those of "
            "torch.optim, in a group of its own if need be.",
        )

    def is_early(self) -> bool:
        """Whether this is one of the steps in which it is said what is wrong from the start."""
        return self._steps <= LIMIT and not self._trained

    def sample(self, weight: Tensor, sums: Sums) -> None:
        """Note some of the rows that are about to be written."""
        if self._steps <= _STEPS:
            rows = sums[0][sums[0] >= 0][:_ROWS]
            before_UD = weight.detach()[rows]
            self._rows = rows, before_UD, before_UD

    def sampled(self, weight: Tensor) -> None:
        """And what they are now."""
        if self._rows is not None:
            rows, before_UD, _ = self._rows
            self._rows = rows, before_UD, weight.detach()[rows]

    def forget_rows(self) -> None:
        """Rows have moved, or are others."""
        self._rows = None

    def note_loaded(self) -> None:
        """Rows and counts are those of a state."""
        self._rows, self._trained = None, True

    def asks_for_labels(self) -> bool:
        """Whether the labels are still to be compared with what the loss learns from."""
        return self._passes < _PASSES

    def compare_labels(self, grad: Tensor, target: Tensor, ignore_index: int) -> None:
        """Raise InputError if the gradient of logits [..., V] says that the loss had other labels than target [...].

        Any loss of one label an example pulls that label's logit up and the others down.
        """
        self._passes += 1
        grad_NV, y_N = grad.detach().flatten(0, -2), target.flatten()
        keep_N = (y_N != ignore_index) & grad_NV.isfinite().all(1) & grad_NV.any(1)
        grad_NV, y_N = grad_NV[keep_N].float(), y_N[keep_N]
        if not len(y_N):
            return
        up_N, pulled_N = grad_NV.min(1)
        one_N = -up_N > _ONE * -grad_NV.clamp(max=0).sum(1)  # else it has several labels, or smoothed ones
        wrong_N = one_N & (pulled_N != y_N) & (grad_NV.gather(1, y_N[:, None])[:, 0] > 0)
        self._labels += Counter(wrong=int(wrong_N.sum()), all=len(y_N))
        wrong, seen = self._labels["wrong"], self._labels["all"]
        if seen < _ENOUGH_LABELS or wrong <= 0.5 * seen:
            return
        if grad_NV.shape[1] < _FEW_CLASSES:
            self.say("few classes")
        else:
            raise InputError(
                f"the loss learns other labels than those that the head was given: in {wrong} of "
                f"{seen} examples it raises the logit of another class. They are shifted (the causal language "
                "models of transformers want shift=1), or of another batch, or in another order. Nothing was written."
            )
