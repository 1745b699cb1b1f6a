"""The output layer out of settings: the one place where names become heads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from firstsight.errors import InputError
from firstsight.functional.inner_step import Objective
from firstsight.heads import (
    AdaptiveSoftmax,
    HebbianAdaptiveSoftmax,
    HebbianSampledSoftmax,
    HebbianSoftmax,
    SampledSoftmax,
    Softmax,
)
from firstsight.heads.objectives import stepping
from firstsight.heads.rules import RuleName, find_rule
from firstsight.lab.system.settings import Settings
from firstsight.lab.system.shape import shown

Layer: TypeAlias = Softmax | AdaptiveSoftmax


def _softmax(settings: "HeadSettings", width: int, num_classes: int, record: bool) -> Layer:
    if settings.cutoffs:
        return AdaptiveSoftmax(width, num_classes, settings.edges(), bias=settings.bias)
    if settings.samples:
        return SampledSoftmax(width, num_classes, settings.bias, **_sampled(settings))
    return Softmax(width, num_classes, settings.bias)


def _hebbian(settings: "HeadSettings", width: int, num_classes: int, record: bool) -> Layer:
    write: dict[str, Any] = {
        "T": settings.T,
        "gamma": settings.gamma,
        "bias": settings.bias,
        "rule": settings.rule,
        "objective": settings.objective,
        "prior_count": settings.prior_count,
        "record": record,
    }
    if settings.cutoffs:
        return HebbianAdaptiveSoftmax(width, num_classes, settings.edges(), **write)
    if settings.samples:
        return HebbianSampledSoftmax(width, num_classes, **write, **_sampled(settings))
    return HebbianSoftmax(width, num_classes, **write)


def _sampled(settings: "HeadSettings") -> dict[str, Any]:
    sampled = {"samples": settings.samples, "sampler": settings.sampler, "sparse": settings.sparse}
    return {**sampled, "seed": getattr(settings, "seed", 0)}


HEADS: dict[str, Callable[["HeadSettings", int, int, bool], Layer]] = {"softmax": _softmax, "hebbian": _hebbian}

if TYPE_CHECKING:
    HeadName: TypeAlias = str
else:
    HeadName = Literal[tuple(HEADS)]


@dataclass(frozen=True)
class HeadSettings(Settings):
    """What every kind of run says of its output layer; a subclass has defaults of its own."""

    head: HeadName = "hebbian"
    """output layer"""
    bias: bool = True
    """a bias for each class in the output layer"""
    T: int = 100
    """hebbian: a class is written until it has been seen T times"""
    gamma: float = 0.02
    """hebbian: smallest rate of the write"""
    rule: RuleName = "sight"
    """hebbian: what the write does to a row (docs/rule.md); in training the default writes as centered does"""
    objective: Objective = "l2"
    """hebbian: which loss of a row the write is a step on (docs/rule.md); l2 makes the rules what they are"""
    prior_count: float = 10.0
    """hebbian, rule shrinkage: how many examples the prior is worth"""

    samples: int = 0
    """train on the targets and so many sampled classes; 0: on all. What a run says of training is then of the sampled
    loss, evaluations are over all classes"""
    sampler: Literal["log_uniform", "uniform"] = "log_uniform"
    """how the classes are sampled; log_uniform is for ids by falling frequency, as vocabularies have them"""
    sparse: bool = False
    """of sampled classes: a step costs what the rows that it reaches cost, for 100,000 classes and more; with adagrad,
    or sgd without momentum"""
    cutoffs: str = ""
    """adaptive softmax: the first class of each narrower cluster, such as 2000,10000; auto: a fifteenth and a fifth of
    the classes; empty: the full softmax"""

    def __post_init__(self) -> None:
        """Check every value: names the setting, what was given and what is expected."""
        super().__post_init__()
        self._require("T", self.T >= 1, "1 or more")
        self._require("gamma", 0 <= self.gamma <= 1, "in [0, 1]")
        self._require("prior_count", self.prior_count > 0, "above 0")
        self._require("samples", self.samples >= 0, "0 for all classes, or how many")
        self._require("sparse", not self.sparse or self.samples > 0, "false where samples is 0: all rows are reached")
        self._require(
            "cutoffs", not (self.cutoffs and self.samples), "none beside samples, which are of the full softmax"
        )
        self.edges()
        unsampled = self.objective != "softmax" or not self.samples
        self._require("objective", unsampled, "l2 or inner_product where classes are sampled, or samples to be 0")
        stepping(find_rule(self.rule), self.rule, self.objective)
        needs_bias = find_rule(self.rule).moves_bias
        self._require("rule", self.bias or not needs_bias, "bias to be true, for this rule moves it")

    def edges(self) -> list[int] | None:
        """Where the clusters of an adaptive softmax begin; None: where it has them by itself."""
        if self.cutoffs in ("", "auto"):
            return None
        try:
            return [int(edge) for edge in self.cutoffs.split(",")]
        except ValueError:
            raise InputError(
                f"cutoffs is {shown(self.cutoffs)}; expected auto, or whole numbers that rise, with commas: 2000,10000."
            ) from None


def make_head(settings: HeadSettings, width: int, num_classes: int, *, record: bool = False) -> Layer:
    """The output layer of these settings, freshly started; torch's random state decides its weights.

    Heads of all kinds take the same numbers from the generator, so that those of one seed start alike.

    Args:
        settings: which, and how it writes.
        width: D.
        num_classes: V.
        record: as :class:`firstsight.HebbianSoftmax`.
    """
    return HEADS[settings.head](settings, width, num_classes, record)
