"""The Hebbian Softmax: a softmax whose rows remember the activations of their classes.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX, _check_labels, check_rule, class_sums
from firstsight.heads.attachment import Handle, Pending
from firstsight.heads.exchange import Group, Sums, exchange, is_shared, merge
from firstsight.heads.rules import Moments, check_prior, find_rule, with_second_moment, write_
from firstsight.heads.softmax import Softmax
from firstsight.heads.state import state_errors


class HebbianSoftmax(Softmax):
    r"""A softmax layer that writes each class's activations into its row until the class is well known.

    After every optimizer step, for each class i of the batch,

    .. math:: \theta_i \leftarrow \lambda_i \overline{h}_i + (1 - \lambda_i) \theta_i, \qquad
              \lambda_i = \max(1/c_i, \gamma) \text{ if } c_i < T \text{ else } 0

    with :math:`\overline{h}_i` the mean of the class's activations in the batch and :math:`c_i` its count before
    it. Source: "Fast Parametric Learning with Activation Memorization" (ICML 2018). Our decisions, where the paper
    is silent: counts start at 1, so that the first sight of a class writes its row outright; the activation is the
    very tensor given to ``loss``, dropout and all.

    Other rules of the write are chosen by name; each keeps T and the counts. ``docs/rule.md`` has their equations,
    ``docs/when.md`` how they fared.

    Args:
        in_features: D.
        num_classes: V.
        T: a row is written until its class has been seen T times (the default is that of language modelling, from a
            public re-implementation; the paper has 10 for Omniglot).
        gamma: smallest rate of the write, in [0, 1] (likewise; 0.1 for Omniglot).
        rule: "paper", or another of ``firstsight.heads.rules.RULES``.
        prior_count: kappa of the rule "shrinkage": how many examples its prior is worth.
        record: keep the sum of what writes have moved each row by, in ``written``, so that a tied input embedding can
            be read without it (``LanguageModel`` does).
        bias, ignore_index, compute_dtype: as ``Softmax``.

    Attributes:
        weight: [V, D] parameter. Where it is tied to an input embedding, the write reaches that too.
        bias: [V] parameter or None; never written, only trained, but by rules that are calibrated.
        counts: [V] int64 buffer, part of ``state_dict``: 1 + occurrences in training.
        moments: [1 + D, 1 + D] buffer, of rules that use the activations' mean or covariance: see ``rules.Moments``.
        written: [V, D] buffer, with ``record``.

    Raises:
        InputError: (a ``ValueError``) a size below 1, T <= 0, gamma outside [0, 1], a rule of no known name, a
            prior_count <= 0, or no bias for a rule that moves it.
    """

    counts: Tensor
    moments: Tensor
    written: Tensor
    _version = 1  # of the layout of state_dict: what Attributes lists

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        T: float = 500,
        gamma: float = 0.01,
        bias: bool = True,
        *,
        rule: str = "paper",
        prior_count: float = 10.0,
        record: bool = False,
        ignore_index: int = IGNORE_INDEX,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_rule(T, gamma)
        self.rule, self.prior_count, self._record = rule, prior_count, record
        self._parts = find_rule(rule)
        check_prior(rule, prior_count, bias)
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
        self._pending = Pending()

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0, counts 1."""
        super().reset_parameters()
        self.register_buffer("counts", torch.ones(self.num_classes, dtype=torch.int64, device=self.weight.device))
        if self._parts.needs_moments:
            self.register_buffer("moments", self._no_moments())
        if self._record:
            self.register_buffer("written", torch.zeros_like(self.weight.detach()))

    def _no_moments(self) -> Tensor:
        size, dtype = 1 + self.in_features, torch.promote_types(self.weight.dtype, torch.float32)
        return torch.zeros(size, size, dtype=dtype, device=self.weight.device)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        counts: Tensor | int | None = None,
        *,
        T: float = 500,
        gamma: float = 0.01,
        **options: Any,
    ) -> Self:
        """Take over an ``nn.Linear``: its parameters, not copies, so that its optimizer goes on serving them.

        Args:
            linear: any linear output layer.
            counts: c of each class as the rule counts (1 + occurrences so far; 0 is taken for 1), [V] int64 or one
                number for all. None: 1, as in a new layer. **For a layer that is already trained give its counts**
                (or ``counts=T``: rows stay as they are); with 1, the next sight of a class overwrites its row.
            T, gamma: as the class.
            options: ``rule`` and ``prior_count``, as the class.

        Raises:
            InputError: (a ``ValueError``) counts of another shape or below 0, or see the class.
        """
        V, D = linear.weight.shape
        head = cls(D, V, T, gamma, linear.bias is not None, device="meta", **options)._take_over(linear)
        if head._parts.needs_moments:
            head.moments = head._no_moments()
        if head._record:
            head.written = torch.zeros_like(linear.weight.detach())
        given = torch.as_tensor(1 if counts is None else counts, dtype=torch.int64, device=linear.weight.device)
        if given.shape not in ((), (linear.out_features,)) or bool((given < 0).any()):
            raise InputError(
                f"counts is {counts}; expected one number, or [{linear.out_features}] of them, each 0 or more."
            )
        head.counts = given.clamp(min=1).expand(linear.out_features).clone()
        return head

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None) -> Handle:
        """Write after each ``optimizer.step()`` what ``loss`` or ``nll`` saw in training since the last one.

        Gradient accumulation adds up. What no step used is dropped, not kept for the next: forward passes without
        backward, and batches whose gradients were zeroed or whose step a ``GradScaler`` skipped.

        In a job of several processes (``torch.distributed`` is initialised) the write uses the class sums of all
        ranks and is the same, bit for bit, on each. It is a collective: every rank must step as often as the others,
        though it need not have seen anything. Sent is, a rank, as many rows of D as the rank with most classes has.

        Args:
            optimizer: the one that holds ``weight``. ``add_classes`` grows its state too.
            group: the processes that train this head together. None: all, once ``torch.distributed`` is initialised.
                **False: this process alone**, for a job whose processes train models of their own.

        Returns:
            A handle; ``handle.remove()`` ends it.

        Raises:
            InputError: (a ``ValueError``) the optimizer does not hold ``weight``, is attached already, or the weight
                is frozen.
        """
        if not self.weight.requires_grad:
            raise InputError(
                "the head's weight does not require a gradient, so no step says when to write. Unfreeze it with "
                "weight.requires_grad_(), or call head.write(h, y) yourself."
            )
        return super().attach(optimizer, group=group)

    def add_classes(self, n: int) -> None:
        """As :meth:`Softmax.add_classes`; the new classes' counts are 1: their first sight writes their rows."""
        super().add_classes(n)
        self.counts = torch.cat([self.counts, self.counts.new_ones(n)])
        if self._record:
            self.written = torch.cat([self.written, self.written.new_zeros(n, self.in_features)])

    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer: a classifier in service that meets an example.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        check_rule(self.T, self.gamma)
        _check_labels(hidden, self.weight, target, self.ignore_index)
        self._write(self._sums(hidden.detach(), target))

    def observe(self, output: Tensor, hidden: Tensor, target: Tensor) -> None:
        """For a loss computed elsewhere: if backward reaches ``output``, the next step writes (hidden, target).

        ``loss`` and ``nll`` call it themselves; a subclass that overrides it decides what is written. In evaluation,
        unattached or without gradient nothing happens.

        Args:
            output: what was computed from ``hidden`` and ``weight`` and leads to the loss, such as logits [..., V].
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above.
        """
        if not (self._attached and self.training and output.requires_grad):
            return
        _check_labels(hidden, self.weight, target, self.ignore_index)
        seen = hidden.detach(), target
        # Remembered when the backward pass gets here, so that a loss that is only looked at leaves no trace.
        output.register_hook(lambda _: self._remember(*seen))  # type: ignore[no-untyped-call]

    def _cross_entropy(self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None) -> Tensor:
        result = super()._cross_entropy(hidden, target, reduction, nll_out)
        self.observe(result, hidden, target)
        return result

    def _remember(self, hidden: Tensor, target: Tensor) -> None:
        if self._attached:
            self._pending.remember(self.weight, self._sums(hidden, target))

    def _sums(self, hidden: Tensor, target: Tensor) -> Sums:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        hidden = hidden.to(dtype)
        sums = class_sums(hidden, target, ignore_index=self.ignore_index)
        if not self._parts.needs_moments:
            return sums
        return with_second_moment(sums, hidden[target != self.ignore_index])

    def _hooks(self, optimizer: torch.optim.Optimizer, group: Group) -> list[Any]:
        return [
            *super()._hooks(optimizer, group),
            self.weight.register_hook(lambda _: self._pending.begin(self.weight)),  # type: ignore[no-untyped-call]
            self.weight.register_post_accumulate_grad_hook(self._pending.landed),  # type: ignore[no-untyped-call]
            optimizer.register_step_post_hook(partial(self._after_step, group=group)),
        ]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any, group: Group) -> None:
        # Fused optimizers are stepped on overflow too, and do nothing: GradScaler leaves them the verdict.
        overflow = getattr(optimizer, "found_inf", None)
        skipped = overflow is not None and bool(overflow)
        pending = self._pending.take(self.weight)
        if is_shared(group):
            nothing = self._sums(self.weight.detach()[:0], self.counts[:0])
            sums = exchange(merge(pending or [nothing]), skipped, group)
        elif pending and not skipped:
            sums = merge(pending)
        else:
            return
        self._write(sums)

    @torch.no_grad()
    def _write(self, sums: Sums) -> None:
        moments = None
        if self._parts.needs_moments:
            self.moments = self.moments.to(sums[1].dtype)  # .half() of a model reaches its buffers
            moments = Moments(self.moments)
            sums = moments.take_in_(sums)
        classes_U, sums_UD, occurrences_U = sums
        before_UD = self.weight[classes_U] if self._record else None
        means = classes_U, sums_UD / occurrences_U[:, None], occurrences_U
        settings = {"T": self.T, "gamma": self.gamma, "prior_count": self.prior_count}
        with torch.autocast(self.weight.device.type, enabled=False):
            write_(self._parts, self.weight, self.bias, self.counts, means, moments, **settings)
        if before_UD is not None:
            self.written[classes_U] += self.weight[classes_U] - before_UD

    def _detach(self, key: int) -> None:
        super()._detach(key)
        self._pending.clear()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("version", 1)
        error_msgs.extend(state_errors(self, state_dict, prefix, version, self._version))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pending": Pending()}

    def extra_repr(self) -> str:
        """The sizes and the rule, for ``print``."""
        return f"{super().extra_repr()}, T={self.T}, gamma={self.gamma}, rule={self.rule}"
