"""The plain softmax output layer, with a loss that never holds the [N, V] logits.

Shapes: N tokens, V classes, D features; [...] stands for any leading dimensions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from firstsight.errors import InputError
from firstsight.functional import linear_cross_entropy
from firstsight.functional.checks import as_labels
from firstsight.functional.shares import log_share
from firstsight.functional.tiling.largest import largest_logits
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

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        if "step" not in self._buffers:  # by which a sampled head draws, whose state is this one's but for it
            state_dict.pop(f"{prefix}step", None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of activations [..., D]."""
        return F.linear(hidden, self.weight, self.bias)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p [..., V] of activations [..., D], in float32 at least."""
        logits = self(hidden)
        return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def loss(
        self,
        hidden: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        logit_adjustment: float | Tensor | None = None,
    ) -> Tensor:
        r"""Mean NLL in nats over the tokens that count: a scalar, 0 when none does.

        Weights and smoothing are those of ``F.cross_entropy``; none of them makes an [N, V] tensor, and none changes
        what a write sees. With logit adjustment (Menon et al. 2021) the loss is that of

        .. math:: \theta_v \cdot h + b_v + \tau \log \pi_v, \qquad \pi_v = \frac{n_v + 1}{\sum_u (n_u + 1)}

        so that rare classes, which need not make up for being rare, get larger logits; nothing is added elsewhere. The
        1 is our decision: a class never seen stays finite.

        Args:
            hidden: [..., D] float.
            target: [...] integers, in [0, V) or ``ignore_index``.
            weight: [V] float, of each class: the mean is weighted by that of the target.
            label_smoothing: share of each target that goes to all classes alike, in [0, 1].
            logit_adjustment: [V] how often each class occurs in training, for :math:`\tau = 1`; or tau, where the head
                counts for itself.

        Raises:
            InputError: (a ``ValueError``) shapes, labels or an option are not as above.
        """
        return self._nll(
            hidden,
            target,
            "mean",
            class_weight=weight,
            label_smoothing=label_smoothing,
            prior=self._prior(logit_adjustment),
        )

    def loss_and_nll(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``loss``, and the NLL of each token [...] that it is the mean of, outside the graph, at no extra cost."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        nll = torch.empty(target.shape, dtype=dtype, device=target.device)
        return self._nll(hidden, target, "mean", nll), nll

    def nll(self, hidden: Tensor, target: Tensor, *, logit_adjustment: float | Tensor | None = None) -> Tensor:
        """NLL in nats of each token, [...]; 0 where target is ``ignore_index``. Arguments as ``loss``."""
        return self._nll(hidden, target, "none", prior=self._prior(logit_adjustment))

    def topk(self, hidden: Tensor, k: int) -> torch.return_types.topk:
        """The k largest logits and their classes, the largest first, in tiles: never an [N, V] tensor.

        Args:
            hidden: [..., D] float.
            k: how many, from 1 to V.

        Returns:
            ``values`` [..., k] and ``indices`` [..., k] int64, the classes, as ``torch.topk`` of the logits gives them;
            without a graph.

        Raises:
            InputError: (a ``ValueError``) hidden is not as above, or k not from 1 to V.
        """
        if not 1 <= k <= self.num_classes:
            raise InputError(f"k is {k}; expected 1 to the number of classes, {self.num_classes}.")
        if hidden.shape[-1:] != self.weight.shape[1:]:
            raise InputError(f"hidden is {list(hidden.shape)}; expected [..., {self.in_features}], as the rows are.")
        with torch.no_grad():
            return largest_logits(hidden, self.weight, self.bias, k)

    def to_linear(self) -> nn.Linear:
        """An ordinary ``nn.Linear`` with copies of weight and bias, for serving: nothing of the head stays with it."""
        V, D = self.weight.shape
        linear = nn.Linear(D, V, bias=self.bias is not None, device="meta").to_empty(device=self.weight.device)
        linear = linear.to(self.weight.dtype)
        linear.load_state_dict({name: value.detach() for name, value in self.named_parameters()})
        return linear

    def _prior(self, adjustment: float | Tensor | None) -> Tensor | None:
        """What logit adjustment adds to each class's logit in training, [V]."""
        if adjustment is None:
            return None
        if isinstance(adjustment, Tensor):
            return log_share(self._checked_counts(adjustment))
        counts = self._own_counts()
        if counts is None:
            raise InputError(
                f"logit_adjustment is {adjustment}, but this head does not count its classes; give the counts, [V]."
            )
        return adjustment * log_share(counts)

    def _nll(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        if torch.compiler.is_compiling():
            return _not_traced(self, hidden, target, reduction, nll_out, options)
        return self._cross_entropy(hidden, as_labels(target), reduction, nll_out, **options)

    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        bias: Tensor | None = self.bias
        if (prior_V := options.pop("prior", None)) is not None:
            prior_V = prior_V.to(self.weight)
            bias = prior_V if bias is None else bias + prior_V
        return linear_cross_entropy(
            hidden,
            self.weight,
            target,
            bias,
            ignore_index=self.ignore_index,
            reduction=reduction,  # type: ignore[arg-type]
            compute_dtype=self.compute_dtype,
            nll_out=nll_out,
            **options,
        )


# torch.compile would unroll the loop over tiles and take minutes. (torch.compiler.disable does the same as this, and
# makes everyone who imports the package wait for the compiler's import.)
@_disable_dynamo
def _not_traced(
    head: Softmax, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None, options: dict[str, Any]
) -> Tensor:
    return head._cross_entropy(hidden, as_labels(target), reduction, nll_out, **options)
