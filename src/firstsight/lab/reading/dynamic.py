r"""Dynamic evaluation (Krause et al. 2018): the model learns from each part of the text, once it has predicted it.

.. math::
    \theta \leftarrow \theta - \eta\, \nabla L + \lambda (\theta_0 - \theta) \quad\text{("sgd")}, \qquad
    \theta \leftarrow \theta - \eta\, \frac{\nabla L}{r + \epsilon} + \min(1, \lambda r / \bar r)\,(\theta_0 - \theta)
    \quad\text{("rms")}

with L the mean NLL of the part, theta_0 the trained weights, and r the root mean square of each weight's gradient on
training text, r-bar its mean. Source: Krause et al. 2018, equations 4 to 8. Our decisions: r is measured on
``MEASURED`` tokens of the training text, in parts as long as those of the text.

Shape suffixes: B streams, S steps of a segment or a part, D features.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Plain, Segment, Text, read
from firstsight.lab.lm.recurrent.plain import State

MEASURED, MEASURED_STREAMS = 20_000, 10
EPSILON = 2e-3  # that of Krause et al.'s own code; without it rows that training hardly moved would move the most


@dataclass(frozen=True)
class Learning:
    """How a text is learnt while it is read."""

    rule: Literal["sgd", "rms"] = "rms"
    """steps along the gradient, or along the gradient by its size in training"""
    lr: float = 5e-4
    """eta, finite, 0 or more"""
    decay: float = 1e-3
    """lambda, from 0 to 1: how much of what was learnt each part takes back"""
    scope: Literal["model", "rows"] = "model"
    """what learns: the whole model, or its output layer alone, whose activations then stay those of training"""
    length: int = 20
    """steps of a part: it is predicted by what was learnt before it, then learnt from"""

    def __post_init__(self) -> None:
        """Check every value."""
        for name, known in (("rule", ("sgd", "rms")), ("scope", ("model", "rows"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}.")
        if not 0 <= self.lr < float("inf"):
            raise InputError(f"lr is {self.lr}; expected a finite number, 0 or more.")
        if not 0 <= self.decay <= 1:
            raise InputError(f"decay is {self.decay}; expected a share of what was learnt, 0 to 1.")
        if self.length < 1:
            raise InputError(f"length is {self.length}; expected 1 or more steps.")


class Dynamic:
    """A reader whose copy of a model learns from the text; the model itself stays as it is.

    What it is given may be cut anywhere: parts are counted from the beginning of the text. Streams side by side share
    one copy, which learns from the mean over all of them.

    Args:
        model: a trained one.
        learning: how to learn.
        rms: of each trainable parameter by name the root mean square of its gradient, as ``gradient_rms`` measures it;
            for the rule "rms".
    """

    reach = float("inf")

    def __init__(self, model: LanguageModel, learning: Learning, rms: dict[str, Tensor] | None = None) -> None:
        self.learning = learning
        self.model = copy.deepcopy(model).eval()
        self._plain = Plain(self.model.head)
        scope = self.model if learning.scope == "model" else self.model.head
        prefix = "" if learning.scope == "model" else "head."
        names = {prefix + name: one for name, one in scope.named_parameters() if one.requires_grad}
        self._weights = list(names.values())
        self._trained = [one.detach().clone() for one in self._weights]
        self._steps, self._decays = _scales(names, learning, rms)
        self._state: State | None = None
        self._pending: tuple[Tensor, ...] = ()  # steps of a part that has not come to its end: scored, not learnt from

    def read(self, segment: Segment) -> Tensor:
        """See ``Reader``: each part's NLL under what was learnt from those before it; at rate 0 the model's own."""
        if not self.learning.lr:
            return self._plain.read(segment)
        assert segment.input is not None, "the text says what the model reads"
        columns: tuple[Tensor, ...] = (segment.input, segment.target, segment.hidden)
        waiting = self._pending[0].shape[1] if self._pending else 0
        if waiting:
            columns = tuple(torch.cat(pair, 1) for pair in zip(self._pending, columns, strict=True))
        found = []
        for part in zip(*(torch.split(column, self.learning.length, 1) for column in columns), strict=True):
            whole = part[0].shape[1] == self.learning.length
            found.append(self._read_part(*part, learn=whole))
            self._pending = () if whole else part
        return torch.cat(found, 1)[:, waiting:]

    def skip(self, segment: Segment) -> None:
        """See ``Reader``: what it learnt before it has to learn again."""
        self.read(segment)

    def _read_part(self, input_BS: Tensor, target_BS: Tensor, hidden_BSD: Tensor, *, learn: bool) -> Tensor:
        """The NLL [B, S] of a part; then, if it is whole, the step."""
        with torch.enable_grad():
            if self.learning.scope == "model":
                hidden_BSD, state = self.model(input_BS, self._state)
            else:
                state = None
            nll_BS: Tensor = self.model.head.nll(hidden_BSD, target_BS)
            counted = int((target_BS != IGNORE_INDEX).sum())
            if learn and counted:
                self._learn(torch.autograd.grad(nll_BS.sum() / counted, self._weights, allow_unused=True))
        if learn and state is not None:
            self._state = (state[0].detach(), state[1].detach())
        return nll_BS.detach()

    @torch.no_grad()
    def _learn(self, gradients: Iterable[Tensor | None]) -> None:
        each = zip(self._weights, self._trained, gradients, self._steps, self._decays, strict=True)
        for parameter, trained, gradient, step, decay in each:
            if isinstance(decay, Tensor) or decay:
                parameter.lerp_(trained, decay)
            if gradient is not None and isinstance(step, Tensor):
                parameter.addcmul_(gradient, step, value=-1)
            elif gradient is not None:
                parameter.sub_(gradient, alpha=float(step))


def _scales(
    names: dict[str, nn.Parameter], learning: Learning, rms: dict[str, Tensor] | None
) -> tuple[list[Tensor | float], list[Tensor | float]]:
    """Of each parameter what its gradient is multiplied by, and the share of what was learnt that is taken back."""
    if learning.rule == "sgd":
        return [learning.lr] * len(names), [learning.decay] * len(names)
    if rms is None or (missing := sorted(set(names) - set(rms))):
        missing = [] if rms is None else missing
        given = f"without {', '.join(missing)}" if missing else "missing"
        raise InputError(
            f"the root mean squares of the gradients are {given}, and the rule rms divides by them. Give "
            "rms=gradient_rms(model, training text), or take the rule sgd."
        )
    total = sum(one.numel() for one in names.values())
    mean = float(sum(rms[name].double().sum() for name in names) / total)
    steps: list[Tensor | float] = [learning.lr / (rms[name] + EPSILON) for name in names]
    decays: list[Tensor | float] = [(learning.decay / mean * rms[name]).clamp(max=1) for name in names]
    return steps, decays if learning.decay else [0.0] * len(names)


def gradient_rms(model: LanguageModel, tokens: np.ndarray, *, eos_id: int, length: int) -> dict[str, Tensor]:
    """The root mean square of the gradient of each trainable parameter over parts of a text, by name.

    Args:
        model: a trained one; it stays as it is.
        tokens: [N] of the training text, of which the first ``MEASURED`` are read, in ``MEASURED_STREAMS`` streams; the
            loss is the mean over a part of each, as Krause et al. have it of a batch.
        eos_id: the id of ``<eos>``.
        length: steps of a part.
    """
    streams = max(1, min(MEASURED_STREAMS, len(tokens) // length))
    measuring = _Measuring(model, length)
    read(Text(model, tokens[:MEASURED], eos_id, streams, chunk=length), {"measured": measuring})
    return measuring.rms()


class _Measuring(Dynamic):
    """Adds up the squares of the gradients where another takes its step."""

    def __init__(self, model: LanguageModel, length: int) -> None:
        super().__init__(model, Learning("sgd", lr=1.0, decay=0.0, length=length))
        self._squares = [torch.zeros_like(one) for one in self._weights]
        self._parts = 0

    def _learn(self, gradients: Iterable[Tensor | None]) -> None:
        self._parts += 1
        for square, gradient in zip(self._squares, gradients, strict=True):
            if gradient is not None:
                square.addcmul_(gradient, gradient)

    def rms(self) -> dict[str, Tensor]:
        """By name of the parameter."""
        names = [name for name, one in self.model.named_parameters() if one.requires_grad]
        return {n: (one / max(1, self._parts)).sqrt() for n, one in zip(names, self._squares, strict=True)}
