"""What decides the numbers of a trial."""

from dataclasses import dataclass
from typing import Literal

from firstsight.lab.system.settings import Settings, check_seeds

SHOTS = (1, 2, 5, 10)  # examples of a new class that are shown
RATES = (0.05, 0.15, 0.015)  # of Adam; where a budget leaves some out, the last first
ASKED = 5  # queries of a new class at least
BUDGET = 20.0  # minutes that a trial may take, where nothing else is said
MOST_ASKED = 20  # queries of a new class at most, so that no large class speaks for all


@dataclass(frozen=True)
class Trial(Settings):
    """The settings of ``firstsight try``."""

    seed: int = 0
    """of the split and of the first training; further trainings take the numbers after it"""
    seeds: int = 3
    """trainings of each method, at most"""
    epochs: int = 12
    """passes of a training"""
    batch: int = 256
    """examples a step"""
    body: Literal["none", "mlp"] = "none"
    """mlp: a trained layer of 256 units below every trained method"""
    new_classes: int = 80
    """classes that come later, at most: so many to choose on, and as many to judge on"""
    new_share: float = 0.1
    """the mix that methods are judged by: share of tomorrow's examples that are of new classes"""
    shots: int = 5
    """examples of each new class at which methods are chosen and judged: 1, 2, 5 or 10"""
    retrain: bool = True
    """whether methods may train again, on old examples that were kept, when new classes come; --no-retrain leaves out
    fine-tuning with replay, and one more epoch"""
    test_share: float = 0.2
    """share of the rows that is kept to judge on; half as many to choose on"""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("seeds", "epochs", "batch", "new_classes"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        check_seeds(self.seeds)
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("new_share", 0 < self.new_share < 1, "a share between 0 and 1")
        self._require("shots", self.shots in SHOTS, "one of 1, 2, 5, 10")
        self._require("test_share", 0 < self.test_share <= 0.5, "a share above 0 and up to 0.5")
