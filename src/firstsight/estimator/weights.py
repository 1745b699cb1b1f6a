"""What weights of examples do: to the loss of a training, and to what is written later.

Shapes: N examples, B of a batch, D features, U classes that occur.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from firstsight.heads import HebbianSoftmax


def weighted(
    head: HebbianSoftmax, weight_N: np.ndarray, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of a batch with these weights, whose mean over all examples is made 1."""
    mean_1_N = torch.from_numpy(weight_N / weight_N.mean()).float().to(device)
    return lambda h_BD, y_B, batch_B: (head.nll(h_BD, y_B) * mean_1_N[batch_B]).mean()


def class_means(h_ND: Tensor, y_N: Tensor, weight_N: Tensor) -> Tensor:
    """Each example as the weighted mean of its class's examples: a write takes their plain mean, which that is too."""
    classes_U, inverse_N = torch.unique(y_N, return_inverse=True)
    sums_UD = torch.zeros(len(classes_U), h_ND.shape[1], dtype=torch.float64)
    sums_UD.index_add_(0, inverse_N, h_ND * weight_N[:, None])
    of_class_U = torch.zeros(len(classes_U), dtype=torch.float64).index_add_(0, inverse_N, weight_N)
    return (sums_UD / of_class_U[:, None])[inverse_N].float()
