"""The methods by name: what each is called, which settings are tried, and in which ways classes can come to it."""

from dataclasses import dataclass, field
from typing import Any

from firstsight.lab.classify.settings import RATES

WRITE, IMPRINTING, REPLAY, ADDED, EPOCH, NONE = "write", "imprinting", "replay", "added", "epoch", "none"
RETRAINED = (REPLAY, EPOCH)  # with training, on old examples that were kept


@dataclass(frozen=True)
class Method:
    """One way to get a classifier.

    Attributes:
        title: for people.
        at_once: the ways in which classes come to it without a further pass over all there is.
        settings: what is tried on the first seed, best guess first: rates of Adam, or what the method has instead. As
            many for each method that has any, so that none wins by being searched longer.
        setting: what these numbers are, for people.
        trained: by our loop, from seeds; the others are the same whatever the seed.
        ours: a layer that writes.
        options: of the head.
    """

    name: str
    title: str
    at_once: tuple[str, ...]
    settings: tuple[float, ...] = RATES
    setting: str = "rate"
    trained: bool = True
    ours: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def one(self) -> bool:
        """Whether it has no setting to try."""
        return len(self.settings) == 1

    @property
    def arrivals(self) -> tuple[str, ...]:
        """All ways in which classes come to it."""
        return (*self.at_once, EPOCH) if self.trained else self.at_once


_RIVAL, _OURS, _PAPER = (IMPRINTING, REPLAY), (WRITE, REPLAY), {"rule": "paper", "T": 500, "gamma": 0.01}
METHODS = {
    method.name: method
    for method in (
        Method("softmax", "linear softmax", _RIVAL),
        Method("softmax-weights", "softmax, class weights", _RIVAL),
        Method("softmax-balanced", "softmax, balanced sampling", _RIVAL),
        Method("softmax-adjusted", "softmax, logit adjustment", _RIVAL),
        Method("cosine", "cosine softmax", _RIVAL),
        Method("sight", "HebbianSoftmax", _OURS, ours=True),
        Method("paper", 'HebbianSoftmax, rule="paper"', _OURS, ours=True, options=_PAPER),
        Method("sight-adjusted", "HebbianSoftmax, logit adjustment", _OURS, ours=True),
        Method("means", "class means", (ADDED,), (0.0,), "", trained=False),
        Method("knn", "nearest neighbours", (ADDED,), (3, 1, 10), "neighbours", trained=False),
        Method("lda", "streaming LDA", (ADDED,), (0.1, 0.5, 0.01), "shrinkage", trained=False),
        Method("logistic", "logistic regression", _RIVAL, (100, 10, 1000), "C", trained=False),
    )
}
