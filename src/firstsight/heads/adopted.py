"""The Hebbian write for a model that exists and computes its own loss: nothing of it is replaced.

Shapes: V classes, D features, S positions; [...] stands for any leading dimensions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, class_labels
from firstsight.heads.exchange import Group
from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.kept.fresh import KEPT, NEW
from firstsight.heads.kept.known import Counts, known


class _AdoptedHead(HebbianSoftmax):
    """A head on the parameters of a linear layer, which keeps its counts in that layer's buffer ``firstsight_counts``.

    One tensor under two names would come apart when ``.to(device)`` or ``load_state_dict`` replaces one of them.
    """

    _prefix = "firstsight_"

    def __init__(self, linear: nn.Linear, counts: Counts | None, new: Classes, **settings: Any) -> None:
        goes_on = getattr(linear, self._prefix + "counts", None) if counts is None else None
        counts_V, fresh_V = known(linear, counts if goes_on is None else goes_on - 1, new)
        before = {name: linear._buffers.pop(self._prefix + name, None) for name in ("moments", *KEPT)}
        if goes_on is not None and (was_V := before["fresh"]) is not None and was_V.shape == fresh_V.shape:
            fresh_V = was_V.index_fill(0, class_labels(new, len(fresh_V), "new").to(was_V.device), NEW)
        self.__dict__["_linear"] = linear  # not a submodule: parameters and buffers stay the model's alone
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, device="meta", **settings)
        self._take_over(linear)
        self._keep_nothing(counts_V, fresh_V)
        for name in ("moments", "lifted"):
            value, now = before[name], getattr(linear, self._prefix + name, None)
            same = value is not None and now is not None and now.shape == value.shape
            if same and (goes_on is not None or (name == "moments" and not isinstance(counts, str))):
                self._keep(name, value)

    @property
    def _keeper(self) -> nn.Module:
        linear: nn.Module = self.__dict__["_linear"]
        return linear

    @property
    def counts(self) -> Tensor:  # type: ignore[override]
        """[V] int64, the layer's buffer."""
        return self._kept("counts")

    def add_classes(self, n: int) -> None:
        super().add_classes(n)
        self.__dict__["_linear"].out_features = self.num_classes

    def remove_classes(self, classes: Classes) -> None:
        super().remove_classes(classes)
        self.__dict__["_linear"].out_features = self.num_classes


class _Capture:
    """The hooks: they bring the activations and the labels of a forward pass together.

    Apart from the handle, so that a copied or unpickled model, which carries its hooks along, carries nothing else.
    Its head is attached to no optimizer, and the hooks then do nothing.
    """

    def __init__(self, head: HebbianSoftmax, shift: int) -> None:
        self.head = head
        self.shift = shift
        self.labels: Tensor | None = None

    @_disable_dynamo
    def before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is not None:
            self.labels = kwargs["labels"]

    @_disable_dynamo
    def after_model(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        labels, self.labels = self.labels, None
        if labels is not None and self.head.attached:
            raise InputError(
                f"{type(model).__name__} was given labels, and the output layer that firstsight.attach found was not "
                "called. If the layer was replaced since (as resize_token_embeddings does), attach again."
            )

    @_disable_dynamo
    def after_linear(self, linear: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        labels, self.labels = self.labels, None
        learns = self.head.attached and linear.training and output.requires_grad
        if not (learns or self.head.is_looking):
            return
        if labels is None:
            raise InputError(
                "the output layer was called in training, and firstsight has no labels for it (each are used once). "
                "Call handle.labels(y) before the forward pass, or give the model the keyword labels=; what is not "
                "training belongs under model.eval() or torch.no_grad()."
            )
        hidden = args[0] if args else kwargs["input"]
        if self.shift:
            hidden, labels = hidden[..., : -self.shift, :], labels[..., self.shift :]
        if hidden.shape[:-1] != labels.shape:
            raise InputError(
                f"the output layer's input is {list(hidden.shape)} and the labels are {list(labels.shape)}, both after "
                f"shift={self.shift}; expected the same leading dimensions. shift=1 is for models whose logits at t "
                "predict label t+1 and that get both unshifted; labels of logits already aligned want shift=0."
            )
        self.head.observe(output, hidden, labels.to(hidden.device))


class Adoption:
    """What :func:`attach` returns.

    Attributes:
        head: the :class:`HebbianSoftmax` on the layer's own parameters, for ``write``, ``add_classes``, ``log_prob``.
    """

    def __init__(self, head: HebbianSoftmax, capture: _Capture, hooks: list[Any]) -> None:
        self.head = head
        self._capture = capture
        self._hooks = hooks

    def labels(self, target: Tensor) -> None:
        """Hand over the labels of the next forward pass, [...] int64; those with ``ignore_index`` (-100) do not count.

        Not needed for a model that is called with the keyword ``labels=``.
        """
        self._capture.labels = target

    def remove(self) -> None:
        """End it. The buffers stay with the layer, and a later :func:`attach` without counts goes on from them."""
        for hook in self._hooks:
            hook.remove()


def _output_layer(model: nn.Module) -> nn.Linear:
    layer: Any = model
    if not isinstance(model, nn.Linear):
        layer = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(layer, nn.Linear):
        kind = type(layer).__name__
        found = "it has no get_output_embeddings()" if layer is None else f"its output layer is a {kind}"
        raise InputError(
            f"no nn.Linear output layer in {type(model).__name__}: {found}. Give the layer itself, as "
            "firstsight.attach(model.classifier, optimizer), and the labels by handle.labels(y) before each pass."
        )
    for hook in layer._forward_hooks.values():
        capture = getattr(hook, "__self__", None)
        if isinstance(capture, _Capture) and capture.head.attached:
            raise InputError("this output layer is attached already; a second time would write twice.")
    return layer


def attach(
    model_or_linear: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    counts: Counts | None = None,
    new: Classes = (),
    shift: int = 0,
    group: Group = None,
    T: float | None = None,
    gamma: float | None = None,
    rule: str = "sight",
    prior_count: float = 10.0,
    price: float = 1.0,
    cap: float | None = None,
) -> Adoption:
    """Have each ``optimizer.step()`` of an existing model followed by the Hebbian write into its output layer.

    The model, its loss and its parameters stay as they are. Its output layer gets buffers, ``firstsight_counts`` [V]
    int64 first of all, which are in the model's ``state_dict``: attach first, then load a checkpoint. What is written
    is the layer's input, for the labels that the model is called with (``labels=``) or that ``handle.labels(y)`` hands
    over. Otherwise as :meth:`HebbianSoftmax.attach`.

    Args:
        model_or_linear: a model with ``get_output_embeddings()``, as those of transformers have, or the output
            layer itself.
        optimizer: the one that holds the layer's weight; torch's own, before accelerate or Lightning wrap it.
        counts: as :meth:`HebbianSoftmax.from_linear`: ``"new"``, ``"trained"`` or occurrences. It may be left out where
            the layer was attached before, to go on from the ``firstsight_counts`` it has.
        new: classes that a trained layer got since, as there.
        shift: logits at position t predict label t + shift. 1 for the causal language models of transformers, which
            shift their labels themselves: hidden [..., S, D] and labels [..., S] are then cut to S - 1.
        group: as :meth:`HebbianSoftmax.attach`.
        rule: as :class:`HebbianSoftmax`. Those that need running moments keep them in a second buffer,
            ``firstsight_moments``, and "sight" which classes are new in a third, ``firstsight_fresh``.
        T, gamma, prior_count, price, cap: as :class:`HebbianSoftmax`.

    Returns:
        A handle with ``head``, ``labels(y)`` and ``remove()``.

    Raises:
        InputError: (a ``ValueError``) there is no output layer to be found, it is attached already, or an argument is
            not as above, or ``counts`` is missing; the model is then as it was. Later, from the forward pass in
            training: no labels, or labels whose shape does not fit.
    """
    if shift < 0:
        raise InputError(f"shift is {shift}; expected 0 or more: logits at position t predict label t + shift.")
    linear = _output_layer(model_or_linear)
    settings = {"T": T, "gamma": gamma, "rule": rule, "prior_count": prior_count, "price": price, "cap": cap}
    before = dict(linear._buffers)
    try:
        head = _AdoptedHead(linear, counts, new, **settings)
        hooks: list[Any] = [head.attach(optimizer, group=group)]
    except InputError:
        linear._buffers.clear()
        linear._buffers.update(before)
        raise
    capture = _Capture(head, shift)
    hooks.append(linear.register_forward_hook(capture.after_linear, with_kwargs=True))
    if model_or_linear is not linear:
        hooks.append(model_or_linear.register_forward_pre_hook(capture.before_model, with_kwargs=True))
        hooks.append(model_or_linear.register_forward_hook(capture.after_model))
    return Adoption(head, capture, hooks)
