"""What every output layer is: a row and perhaps a bias for each class, optimizers it is attached to, and growth.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

import math
import weakref
from abc import abstractmethod
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.functional.checks import Classes, class_labels
from firstsight.functional.shares import log_share
from firstsight.heads.steps.attachment import Handle
from firstsight.heads.steps.exchange import Group, introduce
from firstsight.heads.steps.growth import check_growable, check_landed, check_state, grow_, rows_left, shrink_
from firstsight.heads.steps.optimizers import followed, holds
from firstsight.heads.steps.whole import uninterrupted

REPLACED = (
    "the layer's weight is not the parameter that was attached any more (after load_state_dict(assign=True), weight = "
    "..., weight_norm, a resize, or .to() with torch.__future__.set_overwrite_module_params_on_conversion), and the "
    "optimizer steps that. End the attachment, handle.remove(), and attach to an optimizer of the new parameters."
)


class _Attached(NamedTuple):
    optimizer: weakref.ref[torch.optim.Optimizer]
    given: weakref.ref[Any]  # the optimizer itself, or a wrapper of it
    weight: Tensor
    hooks: list[Any]


class Head(nn.Module):
    """Rows for classes, without a loss of its own: ``Softmax`` is one with, and ``HebbianWrite`` adds the write to any.

    Arguments, attributes and errors as :class:`firstsight.Softmax`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    removals = 0  # how often classes were removed: who remembers classes by number sees by it that they are others

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
        self._attached: dict[int, _Attached] = {}
        if in_features < 1 or num_classes < 1:
            raise InputError(f"in_features is {in_features} and num_classes {num_classes}; expected 1 or more of each.")
        self.ignore_index = ignore_index
        self.compute_dtype = compute_dtype
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_classes, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0."""
        nn.init.uniform_(self.weight, -self._bound, self._bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def start_bias(self, counts: Tensor) -> None:
        r"""Start the bias at the log frequency of each class, :math:`b_i = \log \frac{n_i + 1}{\sum_j (n_j + 1)}`.

        A new layer then gives every class its share whatever the activation, and the gradient need not spend its
        first thousands of steps on learning which classes are rare. The 1 is our decision: a class never seen keeps a
        finite bias.

        Args:
            counts: [V], n_i: how often each class occurs in training, 0 or more.

        Raises:
            InputError: (a ``ValueError``) the layer has no bias, or counts is not as above.
        """
        if self.bias is None:
            raise InputError("this layer has no bias to start; make it with bias=True.")
        with torch.no_grad():
            self.bias.copy_(log_share(self._checked_counts(counts)))

    def _checked_counts(self, counts: Tensor) -> Tensor:
        if counts.shape != self.weight.shape[:1] or bool((counts < 0).any()):
            raise InputError(
                f"counts is {list(counts.shape)}; expected [{self.num_classes}] occurrences, each 0 or more."
            )
        return counts

    def _own_counts(self) -> Tensor | None:
        """How often each class has occurred, [V], where the head counts."""
        return None

    def embedding(self, tokens: Tensor) -> Tensor:
        """The rows [..., D] of classes [...]: an input embedding that is tied to the layer."""
        return F.embedding(tokens, self.weight)

    @property
    def in_features(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def num_classes(self) -> int:
        """V."""
        return self.weight.shape[0]

    @property
    def _bound(self) -> float:
        return 1 / math.sqrt(self.in_features)

    @property
    def attached(self) -> bool:
        """Whether there is an optimizer whose steps it follows."""
        return bool(self._attached)

    @abstractmethod
    def _cross_entropy(
        self, hidden: Tensor, target: Tensor, reduction: str, nll_out: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The loss: its sum, its mean, or one value a token, which fills ``nll_out`` too."""

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None, after: int = 0) -> Handle:
        """Tie the head to an optimizer: ``add_classes`` then grows that optimizer's state too.

        It ends with the optimizer, which the head does not keep alive.

        Args:
            optimizer: one that holds ``weight``; of a wrapper without hooks of its own, such as accelerate's, the
                torch optimizer inside is followed.
            group, after: of the write; a plain softmax has none. Here so that any head can stand in any loop.

        Returns:
            A handle; ``handle.remove()`` ends it.

        Raises:
            InputError: (a ``ValueError``) the optimizer is none of torch's, does not hold ``weight``, or is attached
                already; or the weight is computed from others.
        """
        self._check_own_weight()
        inner = followed(optimizer)
        if not holds(inner, self.weight):
            raise InputError(
                "the optimizer does not hold this head's weight, so its steps say nothing about when to write. "
                "Build the optimizer with the head's parameters, then attach."
            )
        check_state(self.parameters(), inner)
        key = id(inner)
        if key in self._attached:
            raise InputError("this head is attached to this optimizer already; a second time would write twice.")
        head = weakref.ref(self)

        def gone(_: object) -> None:
            if (alive := head()) is not None:
                alive._bereave(key)

        given = weakref.ref(optimizer)
        hooks = self._hooks(inner, given, group, after)
        self._attached[key] = _Attached(weakref.ref(inner, gone), given, self.weight, hooks)
        introduce(group, self.weight)
        return Handle(lambda: self._detach(key))

    def _growable(self, parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
        """The attached optimizers, whose state grows and shrinks with these parameters; InputError if it cannot."""
        self._check_own_weight()
        both = [one for attached in self._attached.values() for one in (attached.optimizer(), attached.given())]
        check_growable(parameters, {id(one): one for one in both if isinstance(one, torch.optim.Optimizer)}.values())
        return [one for attached in self._attached.values() if (one := attached.optimizer()) is not None]

    def _check_own_weight(self) -> None:
        """Raise InputError unless the rows are a parameter of the layer, which can be written and grown."""
        check_parameters(self)
        if self._current_weight() is not self.weight:
            raise InputError(REPLACED)

    def _current_weight(self) -> Tensor | None:
        """The layer's parameter as it is now."""
        return self._parameters.get("weight")

    @uninterrupted()
    def add_classes(self, n: int) -> None:
        """Grow by n classes, which start as those of a new head: weight uniform in +-1/sqrt(D), bias 0.

        The ``Parameter`` objects stay the same ones, so a tied embedding, ``param_groups`` and every other reference
        follow. Gradients so far are kept (zeros for the new rows), and so is the state of each optimizer that the head
        is attached to: a new row gets what it would have if it had been there, never seen, from the start. Call
        ``backward()`` of what was computed before first. An optimizer that holds the weight and is not attached must
        be built anew (torch's fused ones do not even notice, and write past the end of their old state). Under DDP
        call it on all ranks, then wrap the model again (``prepare_ddp`` first, where it was): DDP keeps buffers of the
        old size, and wrapping makes the new rows equal.

        Costs the n rows, amortised: what is short of room is copied once and gets room for V/8 rows more, one tensor
        after the other, so that at its peak there is a new copy of the largest beside all of them. No saved state and
        no copy of the head has the room. It is there on the CPU and on CUDA; elsewhere each growth is a copy.

        Args:
            n: how many, 1 or more.

        Raises:
            InputError: (a ``ValueError``) n is below 1, the weight is computed from others, or an attached optimizer
                keeps a state whose start is not known here (known: SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW,
                Adamax, NAdam, RAdam, SparseAdam). Nothing has changed.
        """
        if n < 1:
            raise InputError(f"n is {n}; expected 1 or more new classes.")
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        optimizers = self._growable(parameters)
        for parameter, bound in zip(parameters, (self._bound, 0.0), strict=False):
            grow_(parameter, n, bound, optimizers)

    @uninterrupted()
    def remove_classes(self, classes: Classes) -> None:
        """Forget classes: their rows and biases, gradients, optimizer state, and whatever else the head keeps of them.

        The classes after them move up: labels are those of the classes that are left, in their order. The
        ``Parameter`` objects stay, as in :meth:`add_classes`, whose conditions hold here too.

        Costs the rows behind the first that goes, which move up where they are, some megabytes at a time, and a number
        for each class. The memory stays the head's, as room for others, until less than half of it is used: then what
        is left is copied. So it is too where another tensor shares the memory, which keeps what it has.

        Args:
            classes: labels in [0, V), each once; one at least, and not all of them.

        Raises:
            InputError: (a ``ValueError``) classes are not as above, or an attached optimizer keeps a state whose rows
                are not known here. Nothing has changed.
        """
        gone = class_labels(classes, self.num_classes, "classes")
        if len(gone) in (0, self.num_classes):
            raise InputError(f"classes are {len(gone)} of {self.num_classes}; expected some of them, not all.")
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        optimizers = self._growable(parameters)
        kept = rows_left(gone.to(self.weight.device), self.num_classes)
        self._keep_classes(kept, parameters, optimizers)

    def _keep_classes(
        self, kept: Tensor, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self.removals += 1
        for parameter in parameters:
            shrink_(parameter, kept, optimizers)

    def _hooks(self, optimizer: torch.optim.Optimizer, given: weakref.ref[Any], group: Group, after: int) -> list[Any]:
        return [self.weight.register_post_accumulate_grad_hook(check_landed)]  # type: ignore[no-untyped-call]

    def _bereave(self, key: int) -> None:
        """An optimizer is gone."""
        self._detach(key)

    def _detach(self, key: int) -> None:
        if (attached := self._attached.pop(key, None)) is not None:
            for hook in attached.hooks:
                hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is attached to nothing: the optimizer serves the parameters of the original.
        return {**self.__dict__, "_attached": {}}

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


def check_parameters(layer: nn.Module) -> None:
    """Raise InputError unless weight and bias are parameters of the layer itself.

    Those that weight_norm, spectral_norm, prune and the like compute from others at each pass cannot be written.
    """
    for name in ("weight", "bias"):
        if name not in layer._parameters and getattr(layer, name) is not None:
            raise InputError(
                f"the layer's {name} is computed from other tensors (as by weight_norm, spectral_norm or prune), so "
                "there is nothing to write into: what is written would be lost at the next pass. Remove that from this "
                "layer (torch.nn.utils.parametrize.remove_parametrizations, prune.remove), or use firstsight.Softmax."
            )
