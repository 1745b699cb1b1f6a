"""The Omniglot curriculum: a classifier that is given new classes as fast as it learns the ones it has."""

from engram.curriculum.loop import run_curriculum
from engram.curriculum.settings import Curriculum

__all__ = ["Curriculum", "run_curriculum"]
