"""The sampled softmax: trained on a sample of the classes, read with all of them.

Shapes: N tokens, V classes, S sampled classes, D features; [...] stands for any leading dimensions.
"""

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.inner_step import Objective
from firstsight.functional.sampled import Sampler, Sampling, check_sampler, sampled_cross_entropy, sampling
from firstsight.heads.softmax import Softmax
from firstsight.heads.steps.exchange import Group
from firstsight.heads.steps.room import longer
from firstsight.heads.steps.sparse import check_takes_sparse, counting
from firstsight.heads.steps.whole import uninterrupted
from firstsight.heads.write import HebbianWrite


class SampledSoftmax(Softmax):
    r"""A softmax whose ``loss`` in training is over the targets and S sampled classes; all else is over all V.

    The sample is one for all tokens of a step, of different classes, each there with a known probability that its
    logit is corrected by: see ``functional.sampled``. It is drawn from (seed, step), so that all processes of a job and
    a resumed run draw the same; ``step`` counts the steps of the attached optimizer, or, where there is none, the
    losses. ``nll``, ``log_prob`` and everything in evaluation use all classes.

    Args:
        in_features, num_classes, bias: as ``Softmax``.
        samples: S; from V on it is the full softmax. The paper's 8192 (A.5.2).
        sampler: ``"log_uniform"``, for classes sorted by falling frequency, as vocabularies are here; ``"uniform"``;
            or occurrences [V].
        seed: of the draws.
        sparse: gradients of weight and bias are sparse tensors of the rows that a step reaches, the sample's and the
            targets', and with ``torch.optim.SGD`` (without momentum and weight decay), ``Adagrad`` or ``SparseAdam`` a
            step costs what these rows cost, whatever V is. Clip with ``firstsight.clip_grad_norm_``; under DDP, call
            ``firstsight.prepare_ddp(model)`` before it wraps the model. With one head tied to an embedding, that
            is ``head.embedding``, whose gradient is sparse too. See docs/scale.md.
        options: as ``Softmax``.

    Attributes:
        step: int64 buffer, part of ``state_dict``.

    Raises:
        InputError: (a ``ValueError``) as ``Softmax``, samples below 1, or a sampler of no known kind. From ``loss``:
            label smoothing, which is of all classes. From ``attach``, with ``sparse``: an optimizer of torch that takes
            no sparse gradient.
    """

    step: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *args: Any,
        samples: int = 8192,
        sampler: Sampler = "log_uniform",
        seed: int = 0,
        sparse: bool = False,
        **options: Any,
    ) -> None:
        if samples < 1:
            raise InputError(f"samples is {samples}; expected 1 or more classes.")
        check_sampler(sampler, num_classes)
        super().__init__(in_features, num_classes, *args, **options)
        self.samples, self.sampler, self.seed, self.sparse = samples, sampler, seed, sparse
        self._sampling_of: tuple[Any, Sampling] | None = None
        self._drawn: tuple[int, Tensor] | None = None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device="cpu"))

    def reset_parameters(self) -> None:
        """Start afresh, the draws too."""
        super().reset_parameters()
        if "step" in self._buffers:
            self.step = torch.zeros_like(self.step, device="cpu")

    def inclusion(self) -> Tensor:
        """The probability of each class to be in a sample, [V] float64."""
        return self._sampling().inclusion()

    def sample(self) -> Tensor:
        """The classes of this step's sample, [S] int64 in rising order."""
        step, sampling = int(self.step), self._sampling()
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = step, sampling.draw(self.seed, step)
        return self._drawn[1]

    @property
    def _own_gradients(self) -> bool:
        """Whether it averages its gradients over processes itself: see ``prepare_ddp``."""
        return self.sparse

    def embedding(self, tokens: Tensor) -> Tensor:
        """The rows [..., D] of classes [...], whose gradient is sparse where the head's is."""
        return F.embedding(tokens, self.weight, sparse=self.sparse)

    def _sampling(self) -> Sampling:
        made_of = self.sampler, self.num_classes, self.samples
        if (
            self._sampling_of is None
            or self._sampling_of[0][0] is not self.sampler
            or self._sampling_of[0][1:] != made_of[1:]
        ):
            of_these = sampling(self.sampler, self.num_classes, min(self.samples, self.num_classes))
            self._sampling_of, self._drawn = (made_of, of_these), None
        return self._sampling_of[1]

    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        learns = self.training and torch.is_grad_enabled() and reduction == "mean"
        if not learns or self.samples >= self.num_classes:
            return super()._cross_entropy(hidden, target, reduction, nll_out, **options)
        if options.get("label_smoothing"):
            raise InputError("label_smoothing is a term over all classes, of which a sampled softmax has not the sum.")
        bias: Tensor | None = self.bias
        if (prior_V := options.get("prior")) is not None:
            bias = prior_V.to(self.weight) if bias is None else bias + prior_V.to(self.weight)
        sample = self.sample().to(hidden.device)
        loss, each = sampled_cross_entropy(
            hidden,
            self.weight,
            target,
            bias,
            sample,
            self._sampling().log_inclusion,
            ignore_index=self.ignore_index,
            compute_dtype=self.compute_dtype,
            class_weight=options.get("class_weight"),
            sparse=self.sparse,
        )
        if nll_out is not None:
            nll_out.copy_(each)
        if not self._attached:
            self.step += 1
        return loss

    def _hooks(
        self, optimizer: torch.optim.Optimizer, given: "weakref.ref[Any]", group: Group, after: int
    ) -> list[Any]:
        if self.sparse:
            check_takes_sparse(optimizer, self.parameters())
        return [*super()._hooks(optimizer, given, group, after), counting(self, optimizer)]

    @uninterrupted()
    def add_classes(self, n: int) -> None:
        """As :meth:`Softmax.add_classes`; where the sampler is occurrences, those of the new classes are 0.

        The next loss then makes the tables of such a sampler anew, a pass over V numbers.
        """
        super().add_classes(n)
        if isinstance(self.sampler, Tensor):
            self.sampler = longer(self.sampler, n, 0)

    def _keep_classes(self, kept: Tensor, parameters: list[Any], optimizers: list[torch.optim.Optimizer]) -> None:
        super()._keep_classes(kept, parameters, optimizers)
        if isinstance(self.sampler, Tensor):
            self.sampler = self.sampler[kept.to(self.sampler.device)]

    def extra_repr(self) -> str:
        """The sizes and the sampler, for ``print``."""
        kind = "occurrences" if isinstance(self.sampler, Tensor) else self.sampler
        return f"{super().extra_repr()}, samples={self.samples}, sampler={kind}{', sparse=True' * self.sparse}"


class HebbianSampledSoftmax(HebbianWrite, SampledSoftmax):
    """A :class:`SampledSoftmax` that writes, as :class:`HebbianSoftmax` does: every class of the batch, sampled or not.

    Arguments, attributes and errors of both, and InputError for ``objective="softmax"``: it needs the probability of
    each example among all V classes after each step, a forward pass of the full softmax, which a sample is there to
    avoid; and among the sampled ones alone it would be another objective.
    """

    def __init__(self, *args: Any, objective: Objective = "l2", **options: Any) -> None:
        if objective == "softmax":
            raise InputError(
                "objective is 'softmax', whose step needs each example's probability among all classes, and this head "
                "samples them so as not to compute that. Take HebbianSoftmax, or the objective l2 or inner_product."
            )
        super().__init__(*args, objective=objective, **options)

    def _terms(self) -> dict[str, Any]:
        return {**super()._terms(), "samples": self.samples, "seed": self.seed}
