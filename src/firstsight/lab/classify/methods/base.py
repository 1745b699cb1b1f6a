"""What each method is to the trial, and how answers are taken from it.

Shapes: B of a block, D features, V classes, U new ones, k examples of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.lab.classify.methods.rivals import Layer
from firstsight.lab.classify.methods.task import Task

BLOCK = 2**22  # numbers of a [B, V] tensor at a time
Answer = Callable[[Tensor], Tensor]
"""Of vectors [B, D] the log-probabilities [B, V]."""
State = dict[str, Tensor]


class Classifier(ABC):
    """A method at work on a task.

    Attributes:
        converged: whether its training came to rest, where it can tell.
    """

    converged: bool | None = None

    @abstractmethod
    def fit(self, task: Task) -> None:
        """Train on the old classes."""

    @abstractmethod
    def state(self) -> State:
        """What ``restore`` needs to be as after ``fit``."""

    @abstractmethod
    def restore(self, task: Task, state: State) -> None:
        """Be as after ``fit``."""

    @abstractmethod
    def answer(self) -> Answer:
        """Before anything comes: of V classes."""

    @abstractmethod
    def arrived(self, arrival: str, shown_h: Tensor) -> Answer:
        """Of V + U classes, after examples [U, k, D] of the new ones came; it stays itself as it was."""

    @abstractmethod
    def layer(self) -> Layer | None:
        """Weights [V, D] and biases [V] for the task's vectors, where it is a linear layer on them, or on a body's."""


def linear_answer(layer: Layer, features: Callable[[Tensor], Tensor] = lambda h: h) -> Answer:
    """That of a linear layer on ``features`` of the vectors."""
    weight, bias = layer
    return lambda h: F.log_softmax(F.linear(features(h), weight, bias), dim=1)


@torch.no_grad()
def asked(answer: Answer, hidden: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Answers to [N, D], in blocks: the class [N] int64, its probability [N], and the NLL of the target [N] in nats.

    The NLL of a target that is no class yet is infinite.
    """
    parts = []
    size = max(1, BLOCK // num_classes)
    for start in range(0, len(target), size):
        logp_BV, y_B = answer(hidden[start : start + size]), target[start : start + size]
        best = logp_BV.max(1)
        known = y_B < logp_BV.shape[1]
        nll = -logp_BV.gather(1, y_B.where(known, 0)[:, None])[:, 0]
        parts.append((best.indices, best.values.exp(), nll.where(known, torch.inf)))
    classes, confidence, nll = (torch.cat(part) for part in zip(*parts, strict=True))
    return classes, confidence, nll
