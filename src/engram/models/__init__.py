"""Models that give the heads their activations."""

from engram.models.convnet import ConvNet, Network
from engram.models.lstm import LanguageModel, head_width, num_parameters

__all__ = ["ConvNet", "LanguageModel", "Network", "head_width", "num_parameters"]
