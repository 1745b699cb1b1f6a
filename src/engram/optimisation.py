"""The optimizers by name, and the learning rate over time."""

import math
from collections.abc import Iterable

import torch

from engram.config import Config


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """The optimizer of these settings; everything they do not name is torch's default."""
    rate, decay, momentum = config.lr, config.weight_decay, config.momentum
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, lr=rate, weight_decay=decay, momentum=momentum)
    if config.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=rate, weight_decay=decay, momentum=momentum)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.Adagrad
    return kind(trained, lr=rate, weight_decay=decay)


def learning_rate(step: int, config: Config) -> float:
    """The rate of a step: a linear rise over ``warmup`` steps, then ``decay`` towards 0 at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    factor = {"none": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}
    return config.lr * factor[config.decay]
