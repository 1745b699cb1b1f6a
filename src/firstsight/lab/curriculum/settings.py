"""The settings of a curriculum."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from firstsight.errors import InputError
from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.runs.head import HeadSettings

DATA = Path("data/omniglot")
"""Where the drawings lie unless another folder is named."""

OptimizerName = Literal["rmsprop", "adam", "adagrad"]  # those that the paper has a rate of

RATES: dict[OptimizerName, float] = {"rmsprop": 0.006, "adam": 0.006, "adagrad": 0.08}
"""The paper's learning rates (appendix B), found with the plain softmax."""


@dataclass(frozen=True)
class Curriculum(HeadSettings):
    """Everything that decides a curriculum but the images.

    Start, additions, threshold, optimizers, T and gamma are those of the paper's appendix B; batch, checks and ends are
    our decisions.
    """

    # -- classes
    start: int = 30
    """classes from the start"""
    add: int = 5
    """classes of an addition"""
    max_classes: int = 0
    """end once so many are learnt; 0 for all there are"""
    threshold: float = 0.6
    """of the performance on test drawings of all classes so far, in (0, 1]; reached or passed, new classes come"""
    reading: Literal["accuracy", "error"] = "accuracy"
    """error: new classes come when the test *error* is above the threshold, as the appendix literally says"""
    # -- model
    T: int = 10
    """hebbian: a class is written until it has been seen T times"""
    gamma: float = 0.1
    """hebbian: smallest rate of the write"""
    network: Network = field(default_factory=Network)
    """the convnet before it"""
    # -- optimisation
    optimizer: OptimizerName = "rmsprop"
    """torch's, with its defaults for all that is not named here"""
    lr: float = 0.0
    """learning rate; 0 for the paper's: 0.006 of rmsprop and adam, 0.08 of adagrad"""
    smoothing: float = 0.99
    """rmsprop: share of the old in its running mean of squares"""
    accumulator: float = 0.0
    """adagrad: what its sums of squares start at"""
    batch: int = 50
    """drawings in a step"""
    # -- when
    check_every: int = 4
    """steps between checks"""
    check_images: int = 200
    """test drawings of a check, a fresh sample each time; 0 for all"""
    additions: int = 10
    """additions at one check, at most: after each the performance is measured again, on another sample"""
    max_steps: int = 2000
    """optimizer steps at most"""
    save_seconds: float = 60.0
    """seconds between checkpoints; 0 for none on the way"""
    seed: int = 0
    """of the order of classes, batches, checks, first weights and dropout"""

    def __post_init__(self) -> None:
        """Check every value: names the setting, what was given and what is expected."""
        super().__post_init__()
        for name in ("start", "add", "batch", "check_every", "additions", "max_steps"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("max_classes", "lr", "accumulator", "check_images", "save_seconds"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("threshold", 0 < self.threshold <= 1, "in (0, 1]")
        self._require("smoothing", 0 <= self.smoothing < 1, "in [0, 1)")
        self._require("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1")
        enough = self.max_classes == 0 or self.max_classes >= self.start
        self._require("max_classes", enough, f"0, or at least the {self.start} of the start")

    @property
    def rate(self) -> float:
        """The learning rate: ``lr``, or the paper's of this optimizer."""
        return self.lr or RATES[self.optimizer]

    def num_classes(self, classes: int) -> int:
        """How many classes may come of so many that there are."""
        for name in ("start", "max_classes"):
            if getattr(self, name) > classes:
                raise InputError(f"{name} is {getattr(self, name)}, but the images have {classes} classes; give less.")
        return self.max_classes or classes

    def passes(self, accuracy: float) -> bool:
        """Whether new classes come at this accuracy.

        Appendix B adds classes "when total test *error* exceeds 60%", which would add them to a learner that fails.
        Our decision is to read it as accuracy; ``reading="error"`` takes it at its word. An untrained learner then gets
        all the ``additions`` that a check may make, at every check.
        """
        return accuracy >= self.threshold if self.reading == "accuracy" else 1 - accuracy > self.threshold

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "the settings") -> Self:
        """The reverse of ``to_dict``; a name it does not know is an error, never ignored."""
        if not isinstance(values, dict):
            return super().from_dict(values, source)  # which refuses it
        network = Network.from_dict(values.get("network", {}), f"{source}, network" if source else "network")
        return super().from_dict({**values, "network": network}, source)
