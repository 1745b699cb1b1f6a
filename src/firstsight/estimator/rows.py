"""The layer of a classifier, and which of its rows are classes.

A spare row is one that was added to the layer and not met, as where the write that was to follow was refused: it has
not occurred, so that no write goes by it, and no answer reads it.

Shapes: N examples, V classes, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.heads import HebbianSoftmax
from firstsight.heads.rules import find_rule

_LOGITS = 2**23  # that are held at a time: 32 MB


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators started at ``seed``, and left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Rows:
    """A layer whose first ``used`` rows are classes."""

    def __init__(self, head: HebbianSoftmax) -> None:
        self.head, self.used = head, head.num_classes

    @property
    def device(self) -> torch.device:
        """Where the layer is."""
        return self.head.weight.device

    def room_for(self, n: int) -> None:
        """See to it that there are n spare rows at least."""
        if (missing := self.used + n - self.head.num_classes) > 0:
            with seeded(0, self.device):  # ``begin`` has what they start with
                self.head.add_classes(missing)

    def begin(self, n: int) -> None:
        """Make the n rows after those used ready to be met, whatever was there.

        The rule "sight" reads nothing of what a new row starts with. Others do, if only its length: with them a row
        starts uniform in +-1/sqrt(D), as everywhere, but by its place, so that it does not matter when rows were added.
        """
        self.room_for(n)
        if not find_rule(self.head.rule).sighted:
            V, D = self.used, self.head.in_features
            steps = -(-D // 4)  # of the generator, which gives four numbers in each
            g = np.random.Generator(np.random.Philox(key=0).advance(V * steps))
            start_nD = (2 * g.random((n, 4 * steps))[:, :D] - 1) / D**0.5
            with torch.no_grad():
                self.head.weight[V : V + n] = torch.from_numpy(start_nD).to(self.head.weight)

    def trim(self) -> None:
        """Give the spare rows back."""
        if self.used < self.head.num_classes:
            removals = self.head.removals
            self.head.remove_classes(range(self.used, self.head.num_classes))
            self.head.removals = removals  # they were no classes

    def remove(self, rows: Tensor) -> None:
        """Forget classes by their rows; those after them move up."""
        self.head.remove_classes(rows)
        self.used -= len(rows)

    def logits(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Logits [n, V] of some examples of [N, D] at a time, and which they are."""
        assert self.head.bias is not None
        weight_VD, bias_V = self.head.weight.detach()[: self.used], self.head.bias.detach()[: self.used]
        n = max(1, _LOGITS // self.used)
        for start in range(0, len(hidden), n):
            at = slice(start, start + n)
            yield at, F.linear(hidden[at].to(self.device), weight_VD, bias_V)
