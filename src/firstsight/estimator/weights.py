"""What changes the loss of a training: weights of examples, logit adjustment; and what weights do to a write.

Shapes: N examples, B of a batch, D features, V classes, U that occur.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from firstsight.errors import InputError
from firstsight.estimator.labels import kind_of
from firstsight.fitting import Loss
from firstsight.heads import HebbianSoftmax


def weights_of(class_weight: Any, labels: np.ndarray, weight_N: np.ndarray | None) -> np.ndarray | None:
    """What each example's loss is to weigh, [N] of 1 at most; None: all alike.

    A label that y does not have weighs nothing, where scikit-learn refuses it: a part of the data, as in a
    cross-validation, may lack a rare class (our decision).

    Args:
        class_weight: as ``FirstSightClassifier`` has it.
        labels: [N].
        weight_N: [N], each above 0, what the examples weigh by themselves; None: all alike.

    Raises:
        InputError: class_weight has labels of another kind, or nothing weighs more than 0.
    """
    if class_weight is not None:
        own_N = _of_classes(class_weight, labels)
        largest = own_N.max() or 1.0  # so that no product is too large
        weight_N = own_N / largest * (1.0 if weight_N is None else weight_N / weight_N.max())
    if weight_N is None:
        return None
    if not weight_N.any():
        raise InputError(
            "class_weight and sample_weight leave no example a weight above 0; expected one of 2 classes each."
        )
    scaled_N: np.ndarray = weight_N / weight_N.max()
    return scaled_N


def _of_classes(class_weight: Any, labels: np.ndarray) -> np.ndarray:
    if not isinstance(class_weight, Mapping):
        found: np.ndarray = compute_sample_weight(class_weight, labels)
        return found
    if others := [key for key in class_weight if isinstance(key, str) != (labels.dtype == object)]:
        raise InputError(
            f"class_weight has {others[0]!r}, and y holds {kind_of(labels)}; expected labels of the same kind."
        )
    return np.array([float(class_weight.get(label, 1.0)) for label in labels.tolist()])


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
