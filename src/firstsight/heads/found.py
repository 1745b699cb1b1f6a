"""The output layer of a model that exists, and how its labels lie: told by what models of transformers and peft have.

Nothing is imported of either, and no model is listed: what is asked are the methods and names that they all share.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from firstsight.errors import InputError

# In the name of a class of transformers, or of one that it is made of: by how much its loss shifts the labels.
_SHIFTS = {
    "ForCausalLM": 1,
    "LMHeadModel": 1,
    "ForMaskedLM": 0,
    "Classification": 0,
    "ForMultipleChoice": 0,
    "ForPreTraining": 0,
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in DistributedDataParallel, in a compiled one or in one of peft."""
    for name in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, name, None), nn.Module):
            return unwrapped(inner)
    if callable(inside := getattr(model, "get_base_model", None)):
        return unwrapped(inside())
    return model


def shift_of(model: nn.Module) -> int:
    """By how much a model's loss shifts its labels, as far as its class says; else 0, and the gradient will tell."""
    model = unwrapped(model)
    for kind in type(model).__mro__:
        for part, shift in _SHIFTS.items():
            if part in kind.__name__:
                return shift
        if "ForConditionalGeneration" in kind.__name__:
            return 0 if getattr(getattr(model, "config", None), "is_encoder_decoder", True) else 1
    return 0


def output_layer(model: nn.Module) -> nn.Linear:
    """The linear layer whose outputs are the model's logits.

    Raises:
        InputError: there is none, or several, or it is one whose rows cannot be written.
    """
    inner = unwrapped(model)
    layer: Any = inner if isinstance(inner, nn.Linear) else getattr(inner, "get_output_embeddings", lambda: None)()
    layers = [_active(layer)] if layer is not None else list(_classifiers(inner))
    if len(layers) == 1 and hasattr(layers[0], "base_layer"):
        raise InputError(
            f"the output layer of {type(inner).__name__} has an adapter on it ({type(layers[0]).__module__}): its "
            "rows are frozen, and what is learnt is a product of two small matrices: no row can be written. Train the "
            "layer itself: leave it out of target_modules and name it in modules_to_save."
        )
    if len(layers) == 1 and isinstance(layers[0], nn.Linear):
        return layers[0]
    name = type(model).__name__
    if not layers:
        found = "it has no get_output_embeddings(), and no nn.Linear of num_labels outputs"
    elif len(layers) == 1:
        found = f"its output layer is a {type(layers[0]).__module__}.{type(layers[0]).__name__}"
    else:
        names = [name for name, module in inner.named_modules() if any(module is layer for layer in layers)]
        found = f"it could be {' or '.join(names)}"
    raise InputError(
        f"no nn.Linear output layer in {name}: {found}. Give the layer itself, as "
        "firstsight.attach(model.classifier, optimizer), and the labels by handle.labels(y) before each pass."
    )


def _active(layer: nn.Module) -> nn.Module:
    """Of peft's ModulesToSaveWrapper the copy that is trained."""
    copies, names = getattr(layer, "modules_to_save", None), getattr(layer, "active_adapters", None)
    return copies[names[0]] if isinstance(copies, nn.ModuleDict) and names else layer


def _classifiers(model: nn.Module) -> Iterator[nn.Module]:
    """The linear layers of as many outputs as the model has labels, but those of its body."""
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    body = getattr(model, str(getattr(model, "base_model_prefix", "")) or "_", None)

    def below(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            child = _active(child)
            if child is body:
                continue
            if isinstance(child, nn.Linear) or hasattr(child, "base_layer"):
                yield child
            else:
                yield from below(child)

    return (layer for layer in below(model) if labels and getattr(layer, "out_features", None) == labels)
