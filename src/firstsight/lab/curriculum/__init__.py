"""The Omniglot curriculum: a classifier that is given new classes as fast as it learns the ones it has."""

from firstsight.lab.curriculum.loop import run_curriculum
from firstsight.lab.curriculum.settings import Curriculum

__all__ = ["Curriculum", "run_curriculum"]
