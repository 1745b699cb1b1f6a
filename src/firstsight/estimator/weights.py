"""What changes the loss of a training: weights of examples, logit adjustment; and what weights do to a write.

Shapes: N examples, B of a batch, D features, V classes, U that occur.
"""

import numpy as np
import torch
from torch import Tensor

from firstsight.fitting import Loss
from firstsight.heads import HebbianSoftmax


def loss_of(head: HebbianSoftmax, y_N: Tensor, weight_N: np.ndarray | None, tau: float) -> Loss | None:
    r"""The loss of a batch, where it is another than ``head.loss(h, y)``.

    Logit adjustment (see ``Softmax.loss``) adds :math:`\tau \log(n_v + 1)` to each logit, less a constant that no
    probability notices. The layer takes counts, and adds the log of their share: for tau it is given
    :math:`(n_v + 1)^\tau - 1`, which for 1 is how often each class occurs in y, as it is.

    Args:
        head: of V classes.
        y_N: [N] int64, what it is trained on.
        weight_N: [N], whose mean over all examples is made 1; None: all alike.
        tau: 0 for no adjustment.
    """
    counts_V = None
    if tau:
        counts_V = torch.bincount(y_N, minlength=head.num_classes).double().add(1).pow(tau).sub(1)
    if weight_N is not None:
        mean_1_N = torch.from_numpy(weight_N / weight_N.mean()).float().to(y_N.device)
        return lambda h, y, which: (head.nll(h, y, logit_adjustment=counts_V) * mean_1_N[which]).mean()
    if counts_V is not None:
        return lambda h, y, which: head.loss(h, y, logit_adjustment=counts_V)
    return None


def class_means(h_ND: Tensor, y_N: Tensor, weight_N: Tensor) -> Tensor:
    """Each example as the weighted mean of its class's examples: a write takes their plain mean, which that is too."""
    classes_U, inverse_N = torch.unique(y_N, return_inverse=True)
    sums_UD = torch.zeros(len(classes_U), h_ND.shape[1], dtype=torch.float64)
    sums_UD.index_add_(0, inverse_N, h_ND * weight_N[:, None])
    of_class_U = torch.zeros(len(classes_U), dtype=torch.float64).index_add_(0, inverse_N, weight_N)
    return (sums_UD / of_class_U[:, None])[inverse_N].float()
