"""The optimizers by name."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["rmsprop", "adam", "adagrad", "sgd"]


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    name: OptimizerName,
    lr: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    smoothing: float = 0.99,
    accumulator: float = 0.0,
) -> torch.optim.Optimizer:
    """torch's optimizer of this name, for the parameters that train; what is not named here is torch's default.

    Args:
        parameters, name, lr, weight_decay: of any optimizer.
        momentum: of rmsprop and sgd.
        smoothing: of rmsprop, its alpha: share of the old in its running mean of squares.
        accumulator: of adagrad: what its sums of squares start at.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "rmsprop":
        return torch.optim.RMSprop(trained, lr=lr, alpha=smoothing, weight_decay=weight_decay, momentum=momentum)
    if name == "sgd":
        return torch.optim.SGD(trained, lr=lr, weight_decay=weight_decay, momentum=momentum)
    if name == "adam":
        return torch.optim.Adam(trained, lr=lr, weight_decay=weight_decay)
    return torch.optim.Adagrad(trained, lr=lr, weight_decay=weight_decay, initial_accumulator_value=accumulator)
