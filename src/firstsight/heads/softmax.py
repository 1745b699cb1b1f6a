"""The plain softmax output layer, with a loss that never holds the [N, V] logits.

Shapes: N tokens, V classes, D features; [...] stands for any leading dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._compile import _disable_dynamo

from firstsight.functional import linear_cross_entropy
from firstsight.heads.head import Head


class Softmax(Head):
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
        return self._nll(hidden, target, "mean")

    def loss_and_nll(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``loss``, and the NLL of each token [...] that it is the mean of, outside the graph, at no extra cost."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        nll = torch.empty(target.shape, dtype=dtype, device=target.device)
        return self._nll(hidden, target, "mean", nll), nll

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """NLL in nats of each token, [...]; 0 where target is ``ignore_index``. Arguments as ``loss``."""
        return self._nll(hidden, target, "none")

    def _nll(self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None) -> Tensor:
        if torch.compiler.is_compiling():
            return _not_traced(self, hidden, target, reduction, nll_out)
        return self._cross_entropy(hidden, target, reduction, nll_out)

    def _cross_entropy(self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None) -> Tensor:
        return linear_cross_entropy(
            hidden,
            self.weight,
            target,
            self.bias,
            ignore_index=self.ignore_index,
            reduction=reduction,  # type: ignore[arg-type]
            compute_dtype=self.compute_dtype,
            nll_out=nll_out,
        )


# torch.compile would unroll the loop over tiles and take minutes. (torch.compiler.disable does the same as this, and
# makes everyone who imports the package wait for the compiler's import.)
@_disable_dynamo
def _not_traced(head: Softmax, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None) -> Tensor:
    return head._cross_entropy(hidden, target, reduction, nll_out)
