"""The Hebbian write for a model that exists and computes its own loss: nothing of it is replaced.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.checks import IGNORE_INDEX, Classes, class_labels
from firstsight.functional.inner_step import Objective
from firstsight.heads.capture import Capture, drop_dead
from firstsight.heads.found import output_layer, shift_of, unwrapped
from firstsight.heads.head import check_parameters
from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.kept.fresh import KEPT, NEW
from firstsight.heads.kept.known import Counts, known
from firstsight.heads.kept.state import CLOCK, decoded, saved
from firstsight.heads.rules import RuleName
from firstsight.heads.steps.exchange import Group
from firstsight.heads.steps.whole import uninterrupted


class _AdoptedHead(HebbianSoftmax):
    """A head on the parameters of a linear layer, which keeps its counts in that layer's buffer ``firstsight_counts``.

    One tensor under two names would come apart when ``.to(device)`` or ``load_state_dict`` replaces one of them.
    """

    _prefix = "firstsight_"

    def __init__(
        self,
        linear: nn.Linear,
        model: nn.Module,
        counts: Counts | Mapping[str, Any] | None,
        new: Classes,
        *,
        rule: str | None,
        objective: str | None,
        T: float | None,
        gamma: float | None,
        **settings: Any,
    ) -> None:
        check_parameters(linear)
        if isinstance(counts, Mapping):
            for name, value in saved(counts, self._prefix, len(linear.weight)).items():
                linear.register_buffer(self._prefix + name, value.to(linear.weight.device, copy=True))
            counts = None
        goes_on = linear._buffers.get(self._prefix + "counts") if counts is None else None
        settings_before = linear._buffers.get(self._prefix + "settings") if goes_on is not None else None
        told = None if settings_before is None else decoded(settings_before)
        if told is not None and rule in (None, told["rule"]):
            rule, T, gamma = told["rule"], told["T"] if T is None else T, told["gamma"] if gamma is None else gamma
            objective = told["objective"] if objective is None else objective
        counts_V, fresh_V = known(linear, counts if goes_on is None else goes_on - 1, new)
        before = {name: linear._buffers.pop(self._prefix + name, None) for name in ("moments", *KEPT)}
        if goes_on is not None and (was_V := before["fresh"]) is not None and was_V.shape == fresh_V.shape:
            fresh_V = was_V.index_fill(0, class_labels(new, len(fresh_V), "new").to(was_V.device), NEW)
        # not submodules: parameters and buffers stay the model's alone
        self.__dict__["_linear"], self.__dict__["_model"] = linear, model
        sizes, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
        settings |= {"rule": rule or "sight", "objective": objective or "l2"}
        super().__init__(*sizes, T, gamma, has_bias, device="meta", **settings)
        self._take_over(linear)
        self._keep_nothing(counts_V, fresh_V)
        if settings_before is not None:
            self._kept("settings")[: len(CLOCK)] = settings_before[: len(CLOCK)]  # the clock goes on
        for name in ("moments", "lifted"):
            was, now = before[name], linear._buffers.get(self._prefix + name)
            same = was is not None and now is not None and now.shape == was.shape
            if same and (goes_on is not None or (name == "moments" and not isinstance(counts, str))):
                self._keep(name, was)

    @property
    def _keeper(self) -> nn.Module:
        linear: nn.Module = self.__dict__["_linear"]
        return linear

    def _current_weight(self) -> Tensor | None:
        return self._keeper._parameters.get("weight")

    @uninterrupted()
    def add_classes(self, n: int) -> None:
        before = self.num_classes
        super().add_classes(n)
        self._tell_sizes(before)

    @uninterrupted()
    def remove_classes(self, classes: Classes) -> None:
        before = self.num_classes
        super().remove_classes(classes)
        self._tell_sizes(before)

    def _tell_sizes(self, before: int) -> None:
        """The layer says how many classes there are, and so do embeddings that share its weight, and the model."""
        self.__dict__["_linear"].out_features = self.num_classes
        model = unwrapped(self.__dict__["_model"])
        tied = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is self.weight]
        for embedding in tied:
            embedding.num_embeddings = self.num_classes
        name = "vocab_size" if tied else "num_labels"  # an embedding of its own has not grown, and config is of both
        for one in (model, getattr(model, "config", None)):
            if getattr(one, name, None) == before:
                setattr(one, name, self.num_classes)


class Adoption:
    """What :func:`attach` returns.

    Attributes:
        head: the :class:`HebbianSoftmax` on the layer's own parameters, for ``write``, ``add_classes``, ``log_prob``.
    """

    def __init__(self, head: HebbianSoftmax, model: nn.Module, capture: Capture, hooks: list[Any]) -> None:
        self.head = head
        self._model = model
        self._capture = capture
        self._hooks = hooks

    def labels(self, target: Tensor) -> None:
        """Hand over the labels of the next forward pass, [...] int64; those with ``ignore_index`` do not count.

        Not needed for a model that is called with the keyword ``labels=``.
        """
        self._capture.hand_over(target)

    def write(self, target: Tensor, *args: Any, **inputs: Any) -> None:
        """One write now, without an optimizer: a model in service that meets examples, ``handle.write(y, **batch)``.

        Args:
            target: as :meth:`labels`; of classes that ``head.add_classes`` has made room for.
            args, inputs: what the model is called with, in evaluation mode; without labels.

        Raises:
            InputError: (a ``ValueError``) as ``head.write``, or the model does not call its output layer once.
        """
        self.head.write(*self._capture.take(self._model, target, args, inputs))

    def remove(self) -> None:
        """End it. The buffers stay with the layer, and a later :func:`attach` without counts goes on from them."""
        for hook in self._hooks:
            hook.remove()


def attach(
    model_or_linear: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    counts: Counts | Mapping[str, Any] | None = None,
    new: Classes = (),
    shift: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    group: Group = None,
    T: float | None = None,
    gamma: float | None = None,
    rule: RuleName | None = None,
    objective: Objective | None = None,
    prior_count: float = 10.0,
    price: float = 1.0,
    cap: float | None = None,
) -> Adoption:
    """Have each ``optimizer.step()`` of an existing model followed by the Hebbian write into its output layer.

    The model, its loss and its parameters stay as they are. Its output layer gets buffers, ``firstsight_counts`` [V]
    int64 first of all, which are in the model's ``state_dict``: attach first, then load a checkpoint. What is written
    is the layer's input, for the labels that the model is called with (``labels=``) or that ``handle.labels(y)`` hands
    over; a model that chooses one position of each sequence, as decoders that classify do, is written at that one.
    Otherwise as :meth:`HebbianSoftmax.attach`.

    Args:
        model_or_linear: a model with ``get_output_embeddings()``, as the language models of transformers have, or with
            one ``nn.Linear`` of ``config.num_labels`` outputs, as its classifiers; or the output layer itself.
        optimizer: the one that holds the layer's weight. None: later, by ``handle.head.attach(optimizer)``, so that a
            checkpoint can be loaded in between.
        counts: as :meth:`HebbianSoftmax.from_linear`: ``"new"``, ``"trained"`` or occurrences; or a saved state that
            holds ``firstsight_counts``, of a model or of peft, to go on from. It may be left out where the layer was
            attached before, to go on from what it has.
        new: classes that a trained layer got since, as there.
        shift: logits at position t predict label t + shift. None: found out from the model's class (1 for the causal
            language models of transformers, which shift their labels themselves: hidden [..., S, D] and labels
            [..., S] are then cut to S - 1). The first gradients are compared with the labels, and a wrong one refused.
        ignore_index: a label that does not count.
        group: as :meth:`HebbianSoftmax.attach`.
        rule: as :class:`HebbianSoftmax`; None: "sight", or that which the layer was attached with before. Rules that
            need running moments keep them in a buffer ``firstsight_moments``, and "sight" which classes are new in
            ``firstsight_fresh``.
        objective: as :class:`HebbianSoftmax`; None: "l2", or, with the same rule, that which the layer was attached
            with before.
        T, gamma, prior_count, price, cap: as :class:`HebbianSoftmax`.

    Returns:
        A handle with ``head``, ``labels(y)`` and ``remove()``.

    Raises:
        InputError: (a ``ValueError``) there is no output layer to be found, it is attached already, or an argument is
            not as above, or ``counts`` is missing; the model is then as it was. Later, from the forward pass in
            training: no labels, or labels whose shape does not fit. From backward: labels that the loss does not have.
    """
    if shift is not None and shift < 0:
        raise InputError(f"shift is {shift}; expected 0 or more: logits at position t predict label t + shift.")
    linear = output_layer(model_or_linear)
    drop_dead(linear, model_or_linear)
    settings: dict[str, Any] = {"T": T, "gamma": gamma, "rule": rule, "objective": objective}
    settings |= {"prior_count": prior_count, "price": price, "cap": cap, "ignore_index": ignore_index}
    before = dict(linear._buffers)
    try:
        head = _AdoptedHead(linear, model_or_linear, counts, new, **settings)
        handles: list[Any] = [] if optimizer is None else [head.attach(optimizer, group=group)]
    except InputError:
        linear._buffers.clear()
        linear._buffers.update(before)
        raise
    capture = Capture(head, shift_of(model_or_linear) if shift is None else shift)
    return Adoption(head, model_or_linear, capture, handles + capture.hook(linear, model_or_linear))
