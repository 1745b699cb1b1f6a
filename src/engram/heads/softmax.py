"""The plain softmax output layer, with a loss that never holds the [N, V] logits.

Shapes: N tokens, V classes, D features; [...] stands for any leading dimensions.
"""

import math
from collections.abc import Callable
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.errors import InputError
from engram.functional import IGNORE_INDEX, linear_cross_entropy


class Handle:
    """What ``attach`` returns: ``remove()`` ends the attachment, and may be called again."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """End the attachment."""
        self._remove()


class Softmax(nn.Module):
    r"""log p(y | h) = theta_y . h + b_y - log sum_v exp(theta_v . h + b_v), learnt by gradient alone.

    Args:
        in_features: D, width of the activation.
        num_classes: V.
        bias: one number a class, started at 0.
        ignore_index: a label that does not count.
        compute_dtype: dtype of the loss's matrix products (``torch.bfloat16`` pays on hardware that has it); None
            follows autocast, else the tensors' own dtype.

    Attributes:
        weight: [V, D] parameter, started uniform in +-1/sqrt(D), as ``nn.Linear``.
        bias: [V] parameter or None.

    Raises:
        InputError: (a ``ValueError``) a size below 1.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        ignore_index: int = IGNORE_INDEX,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or num_classes < 1:
            raise InputError(f"in_features is {in_features} and num_classes {num_classes}; expected 1 or more of each.")
        self.ignore_index = ignore_index
        self.compute_dtype = compute_dtype
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_classes, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def in_features(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def num_classes(self) -> int:
        """V."""
        return self.weight.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of activations [..., D]."""
        return F.linear(hidden, self.weight, self.bias)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p [..., V] of activations [..., D], in float32 at least."""
        logits = self(hidden)
        return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean NLL in nats over the tokens that count: a scalar, 0 when none does.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        return self._cross_entropy(hidden, target, "mean")

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """NLL in nats of each token, [...]; 0 where target is ``ignore_index``. Arguments as ``loss``."""
        return self._cross_entropy(hidden, target, "none")

    def attach(self, optimizer: torch.optim.Optimizer) -> Handle:
        """A plain softmax writes nothing: here so that any head can stand in any loop."""
        return Handle(lambda: None)

    def _cross_entropy(self, hidden: Tensor, target: Tensor, reduction: str) -> Tensor:
        return linear_cross_entropy(
            hidden,
            self.weight,
            target,
            self.bias,
            ignore_index=self.ignore_index,
            reduction=reduction,  # type: ignore[arg-type]
            compute_dtype=self.compute_dtype,
        )

    def _take_over(self, linear: nn.Linear) -> Self:
        self.weight = cast(nn.Parameter, linear.weight)
        self.bias = cast(nn.Parameter | None, linear.bias)
        return self

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """Take over an ``nn.Linear``: its parameters, not copies, so that its optimizer goes on serving them."""
        return cls(linear.in_features, linear.out_features, bias=False, device="meta")._take_over(linear)

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}, bias={self.bias is not None}"
