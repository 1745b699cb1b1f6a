"""Models that give the heads their activations."""

from engram.models.lstm import LanguageModel, head_width, num_parameters

__all__ = ["LanguageModel", "head_width", "num_parameters"]
