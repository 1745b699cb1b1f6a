"""The Hebbian Softmax: a softmax whose rows remember the activations of their classes.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from engram.errors import InputError
from engram.functional import IGNORE_INDEX, check_rule, hebbian_update_
from engram.heads.softmax import Handle, Softmax


class HebbianSoftmax(Softmax):
    r"""A softmax layer that writes each class's activations into its row until the class is well known.

    After every optimizer step, for each class i of the batch,

    .. math:: \theta_i \leftarrow \lambda_i \overline{h}_i + (1 - \lambda_i) \theta_i, \qquad
              \lambda_i = \max(1/c_i, \gamma) \text{ if } c_i < T \text{ else } 0

    with :math:`\overline{h}_i` the mean of the class's activations in the batch and :math:`c_i` its count before
    it. Source: "Fast Parametric Learning with Activation Memorization" (ICML 2018). Our decisions, where the paper
    is silent: counts start at 1, so that the first sight of a class writes its row outright; the activation is the
    very tensor given to ``loss``, dropout and all.

    Args:
        in_features: D.
        num_classes: V.
        T: a row is written until its class has been seen T times (the default is that of language modelling, from a
            public re-implementation; the paper has 10 for Omniglot).
        gamma: smallest rate of the write, in [0, 1] (likewise; 0.1 for Omniglot).
        bias, ignore_index, compute_dtype: as ``Softmax``.

    Attributes:
        weight: [V, D] parameter. Where it is tied to an input embedding, the write reaches that too.
        bias: [V] parameter or None; never written, only trained.
        counts: [V] int64 buffer, part of ``state_dict``: 1 + occurrences in training.

    Raises:
        InputError: (a ``ValueError``) a size below 1, T <= 0, or gamma outside [0, 1].
    """

    counts: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        T: float = 500,
        gamma: float = 0.01,
        bias: bool = True,
        *,
        ignore_index: int = IGNORE_INDEX,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_rule(T, gamma)
        super().__init__(
            in_features,
            num_classes,
            bias,
            ignore_index=ignore_index,
            compute_dtype=compute_dtype,
            device=device,
            dtype=dtype,
        )
        self.T = T
        self.gamma = gamma
        self.register_buffer("counts", torch.ones(num_classes, dtype=torch.int64, device=device))
        self._hooks: dict[int, Any] = {}
        self._pending: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, counts: Tensor | int | None = None, *, T: float = 500, gamma: float = 0.01
    ) -> Self:
        """Take over an ``nn.Linear``: its parameters, not copies, so that its optimizer goes on serving them.

        Args:
            linear: any linear output layer.
            counts: c of each class as the rule counts (1 + occurrences so far; 0 is taken for 1), [V] int64 or one
                number for all. None: 1, as in a new layer. **For a layer that is already trained give its counts**
                (or ``counts=T``: rows stay as they are); with 1, the next sight of a class overwrites its row.
            T, gamma: as the class.

        Raises:
            InputError: (a ``ValueError``) counts of another shape or below 0.
        """
        head = cls(linear.in_features, linear.out_features, T, gamma, bias=False, device="meta")._take_over(linear)
        given = torch.as_tensor(1 if counts is None else counts, dtype=torch.int64, device=linear.weight.device)
        if given.shape not in ((), (linear.out_features,)) or bool((given < 0).any()):
            raise InputError(
                f"counts is {counts}; expected one number, or [{linear.out_features}] of them, each 0 or more."
            )
        head.counts = given.clamp(min=1).expand(linear.out_features).clone()
        return head

    def attach(self, optimizer: torch.optim.Optimizer) -> Handle:
        """Write after each ``optimizer.step()`` what ``loss`` or ``nll`` saw in training since the last one.

        Gradient accumulation adds up. What no step used is dropped, not kept for the next: forward passes without
        backward, and batches whose gradients were zeroed or whose step a ``GradScaler`` skipped.

        Args:
            optimizer: the one that holds ``weight``.

        Returns:
            A handle; ``handle.remove()`` ends it.

        Raises:
            InputError: (a ``ValueError``) the optimizer does not hold ``weight``, or is attached already.
        """
        if not any(parameter is self.weight for group in optimizer.param_groups for parameter in group["params"]):
            raise InputError(
                "the optimizer does not hold this head's weight, so its steps say nothing about when to write. "
                "Build the optimizer with the head's parameters, then attach."
            )
        key = id(optimizer)
        if key in self._hooks:
            raise InputError("this head is attached to this optimizer already; a second time would write twice.")
        self._hooks[key] = optimizer.register_step_post_hook(self._after_step)
        return Handle(lambda: self._detach(key))

    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer: a classifier in service that meets an example.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        hebbian_update_(
            self.weight, self.counts, hidden, target, T=self.T, gamma=self.gamma, ignore_index=self.ignore_index
        )

    def _cross_entropy(self, hidden: Tensor, target: Tensor, reduction: str) -> Tensor:
        result = super()._cross_entropy(hidden, target, reduction)
        if self._hooks and self.training and result.requires_grad:
            seen = hidden.detach(), target
            # Remembered when the backward pass gets here, so that a loss that is only looked at leaves no trace.
            result.register_hook(lambda _: self._remember(*seen))  # type: ignore[no-untyped-call]
        return result

    def _remember(self, hidden: Tensor, target: Tensor) -> None:
        grad = self.weight.grad
        if self._pending and (grad is None or not bool(grad.any())):
            self._pending.clear()  # the gradients of what is pending were zeroed: no step will use them
        self._pending.append((hidden, target))

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Fused optimizers are stepped on overflow too, and do nothing: GradScaler leaves them the verdict.
        overflow = getattr(optimizer, "found_inf", None)
        skipped = overflow is not None and bool(overflow)
        pending, self._pending = self._pending, []
        if pending and not skipped:
            hidden = torch.cat([hidden.reshape(-1, hidden.shape[-1]) for hidden, _ in pending])
            self.write(hidden, torch.cat([target.reshape(-1) for _, target in pending]))

    def _detach(self, key: int) -> None:
        if hook := self._hooks.pop(key, None):
            hook.remove()
        self._pending.clear()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is attached to nothing: the hooks belong to the optimizer of the original.
        return {**self.__dict__, "_hooks": {}, "_pending": []}

    def extra_repr(self) -> str:
        """The sizes and the rule, for ``print``."""
        return f"{super().extra_repr()}, T={self.T}, gamma={self.gamma}"
