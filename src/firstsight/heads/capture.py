"""The hooks on a model that exists: they bring the activations and the labels of a forward pass together.

Shapes: B sequences of S positions, V classes, D features; [...] stands for any leading dimensions.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from firstsight.errors import InputError
from firstsight.heads.hebbian import HebbianSoftmax


class _Waiting(NamedTuple):
    output: Tensor
    hidden: Tensor
    labels: Tensor


class Capture:
    """What the hooks of one adoption do.

    Apart from the handle, so that a copied or unpickled model, which carries its hooks along, carries nothing else.
    Its head is attached to no optimizer: nothing is written, and in training that is said.
    """

    def __init__(self, head: HebbianSoftmax, shift: int) -> None:
        self.head = head
        self.shift = shift
        self.labels: Tensor | None = None
        self._of_keyword = False  # not handed over
        self._waiting: _Waiting | None = None
        self._taken: list[tuple[Tensor, Tensor]] | None = None  # under ``take``

    def hook(self, linear: nn.Linear, model: nn.Module) -> list[Any]:
        """Hook the layer, and the model around it; returns the handles."""
        hooks: list[Any] = [
            linear.register_forward_hook(self.after_linear, with_kwargs=True),
            linear.register_load_state_dict_pre_hook(self.before_load),  # type: ignore[no-untyped-call]
            linear.register_state_dict_pre_hook(self.before_save),  # type: ignore[no-untyped-call]
        ]
        if model is not linear:
            hooks.append(model.register_forward_pre_hook(self.before_model, with_kwargs=True))
            hooks.append(model.register_forward_hook(self.after_model))
        return hooks

    def hand_over(self, labels: Tensor) -> None:
        """Labels of the next pass, as they are now."""
        self.head._watch.count("uncalled", self.labels is not None)
        self.labels, self._of_keyword = labels.clone() if isinstance(labels, Tensor) else labels, False

    @torch.no_grad()
    def take(
        self, model: nn.Module, target: Tensor, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """What goes into the output layer when the model reads inputs in evaluation mode, with the labels that fit."""
        modes = [(module, module.training) for module in model.modules()]
        self.hand_over(target)
        taken: list[tuple[Tensor, Tensor]] = []
        self._taken = taken
        try:
            model.eval()(*args, **inputs)
        finally:
            self.labels = self._waiting = self._taken = None
            for module, training in modes:
                module.training = training
        if len(taken) != 1:
            raise InputError(f"{type(model).__name__} called its output layer {len(taken)} times; expected once.")
        return taken[0]

    def _deliver(self, output: Tensor, hidden: Tensor, labels: Tensor) -> None:
        if self._taken is None:
            self.head.observe(output, hidden, labels)
        else:
            self._taken.append((hidden, labels))

    @_disable_dynamo
    def before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the labels that the model is called with."""
        given = kwargs.get("labels")
        if given is not None or self._of_keyword:  # those of a pass that failed half way are nobody's
            self.labels, self._of_keyword = given, given is not None

    @_disable_dynamo
    def after_model(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Observe what waited for the model's choice; InputError if the layer was not called."""
        labels, self.labels, waiting, self._waiting = self.labels, None, self._waiting, None
        if labels is not None and self.head.attached:
            raise InputError(
                f"{type(model).__name__} was given labels, and the output layer that firstsight.attach found was not "
                "called. If the layer was replaced since (as resize_token_embeddings does): handle.remove(), build the "
                'optimizer anew, and attach again with counts="trained" and new= the rows that it got.'
            )
        if waiting is not None:
            self._deliver(waiting.output, _chosen(waiting, output), waiting.labels)

    @_disable_dynamo
    def after_linear(self, linear: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        """Observe what goes into the layer, with its labels."""
        output, kwargs = rest[-1], rest[0] if len(rest) > 1 else {}  # converters copy hooks and forget their keywords
        labels, self.labels = self.labels, None
        learns = linear.training and self.head._learns(output)
        if not (learns or self.head.is_looking or self._taken is not None):
            return
        if labels is None:
            raise InputError(
                "the output layer was called in training, and firstsight has no labels for it (each are used once). "
                "Call handle.labels(y) before the forward pass, or give the model the keyword labels= (transformers' "
                "Trainer takes them away with label_smoothing_factor: docs/huggingface.md has the mend); in a "
                "segment that is checkpointed, and so runs twice, inside of it. What is not training belongs under "
                "model.eval() or torch.no_grad()."
            )
        hidden = args[0] if args else kwargs["input"]
        labels = labels.to(hidden.device)
        if hidden.ndim == 3 and labels.shape == hidden.shape[:1] and not self.shift:
            self._waiting = _Waiting(output, hidden.detach().clone(), labels.clone())  # until the model has chosen
            return
        if self.shift:
            labels = F.pad(labels[..., self.shift :], (0, self.shift), value=self.head.ignore_index)
        if hidden.shape[:-1] != labels.shape:
            raise InputError(
                f"the output layer's input is {list(hidden.shape)} and the labels are {list(labels.shape)}; expected "
                f"the same leading dimensions (shift={self.shift}: labels come unshifted)."
            )
        self._deliver(output, hidden, labels)

    def before_load(
        self, linear: nn.Module, state: dict[str, Any], prefix: str, told: dict[str, Any], *rest: Any
    ) -> None:
        """As of a head: a state that cannot be this layer's is refused, and so are rows that nobody has counted.

        But where the layer was taken over as one that is trained, a state from before it was attached is such a one.
        """
        if f"{prefix}firstsight_counts" in state or (f"{prefix}weight" in state and not self.head.is_taken_over()):
            rest[-1].extend(self.head.before_load(state, prefix))

    def before_save(self, linear: nn.Module, prefix: str, keep_vars: bool) -> None:
        """T and gamma may have been set since."""
        self.head.refresh_settings()


def _chosen(waiting: _Waiting, output: Any) -> Tensor:
    """Of the activations [B, S, D] those whose logits the model gives back, [B, D]."""
    logits = getattr(output, "logits", None)
    parts = [logits] if logits is not None else output if isinstance(output, tuple | list) else [output]
    all_BSV = waiting.output.detach()
    for part in parts:
        if isinstance(part, Tensor) and part.shape == (all_BSV.shape[0], all_BSV.shape[2]):
            same_BS = (all_BSV == part.detach().to(all_BSV.dtype)[:, None]).all(2)
            if bool(same_BS.any(1).all()):
                return waiting.hidden[torch.arange(len(part), device=part.device), same_BS.int().argmax(1)]
    raise InputError(
        f"the output layer's input is {list(waiting.hidden.shape)} and the labels are {list(waiting.labels.shape)}: "
        "one position of each sequence counts, and the model's output does not say which. Give firstsight.attach the "
        "model, not the layer, or labels of all positions, those that do not count being ignore_index."
    )


def drop_dead(*modules: nn.Module) -> None:
    """Take the hooks off that serve no optimizer any more; InputError if there are some that do."""
    for module in modules:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_load_state_dict_pre_hooks", "_state_dict_pre_hooks")
        for hooks in (getattr(module, kind) for kind in kinds):
            for key, hook in list(hooks.items()):
                capture = getattr(getattr(hook, "hook", hook), "__self__", None)
                if isinstance(capture, Capture) and capture.head.attached:
                    raise InputError(
                        "this output layer is attached already, and a second time would write twice; "
                        "handle.remove() ends the first."
                    )
                if isinstance(capture, Capture):
                    del hooks[key]
