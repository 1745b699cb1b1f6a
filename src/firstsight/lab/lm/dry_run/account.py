"""The account of a training run: parameters, operations and memory, by part, from its settings alone.

The model is built without memory (on torch's ``meta`` device) and asked for what it has, so that the paper's, on a GPU,
can be judged on a laptop. Sizes: V classes, D width of the head, E of the embedding, H LSTM units, N tokens that are
worked through at once (``batch / accumulate * length``).
"""

from collections import Counter
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from firstsight.functional.tiling.sizes import loss_bytes, sampled_bytes
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.recurrent.plain import multiplies_low
from firstsight.lab.lm.run import build_model, build_optimizer
from firstsight.lab.system.machine import check_fits

# Numbers of float32 that an LSTM layer keeps for its backward pass, a unit and token: x and y, copied to be laid out
# otherwise, and torch's workspace on CPUs, measured at 192 to 1,024 units (15.2 to 15.7; 10.7 to 10.9 under bfloat16,
# where x and y take half). What cuDNN keeps is not documented, and taken to be as much.
_KEPT = {"fp32": 18.5, "bf16": 12.3}
_KEPT_NORM = 16  # both products, four gates, cell, its content, x and y: see recurrent/layer_norm.py
# What the process of a run grew by at its peak on a CPU, fitted to seven settings of 80 to 450 MB: six are met within
# 8%, bfloat16 with 14% too much. Blocks that the C library's allocator keeps and scratch space grow with the tensors.
_PROCESS_SHARE, _PROCESS_BYTES = 1.4, 30e6


def build(vocab_size: int, config: Config) -> LanguageModel:
    """The model of these settings, with shapes and no memory."""
    with torch.device("meta"):
        return build_model(vocab_size, config)


def parameters(model: LanguageModel) -> dict[str, int]:
    """Trainable parameters by part, exact: each of the head's by its name; "total"."""
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            first = name.split(".")[0]
            found[name if first == "head" else first] += parameter.numel()
    return dict(found) | {"total": sum(found.values())}


def operations(model: LanguageModel, counts: np.ndarray | None = None) -> dict[str, int]:
    """Floating-point operations of training on one token, by part; "total".

    A matrix of m numbers that a token is multiplied with takes 2 m forward and 4 m backward, for the gradients of the
    token and of the matrix: 6 m. The projection is used twice, in and out. The head is taken with all of its matrices,
    a sampled one with S + 1 of its V rows, a tail of an adaptive one with the share of the tokens that are in it, by
    the occurrences ``counts`` [V]. What is no matrix product is left out: norms, gates, optimizer, write.
    """
    found = {"lstm": 6 * _matrices(model.lstm)}
    if model.projection is not None:
        found["projection"] = 2 * 6 * model.projection.numel()
    found["head"] = 6 * _of_head(model.head, counts)
    return found | {"total": sum(found.values())}


def memory(model: LanguageModel, config: Config, device: str) -> dict[str, Any]:
    """Bytes of a training step's tensors on a device, by part, and "peak", the most that are alive at once.

    "weights", "optimizer" and "buffers" are always there. To them come, in the loss and in its backward pass,
    "activations" of N tokens, what "loss" itself holds, of clusters as if each had all tokens, and with
    ``accumulate`` the "gradients" of the parts before; in the optimizer's step, gradients and the "update"'s own.
    "at" says which of the three is the peak. On a CPU "process" is what the process will grow by, by a rule of thumb:
    to the tensors come libraries, scratch space inside products and the LSTM, and blocks that the allocator keeps. It
    is too much for models of gigabytes, whose blocks are given back. On a GPU these are in no account.

    Args:
        model: of ``build``.
        config: its settings.
        device: "cpu" or "cuda".
    """
    state = _optimizer_bytes(model, config)
    trained = [_gradient_bytes(parameter, model, config) for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    activations, (forward, backward) = _activations(model, config, device), _loss(model, config, device)
    # On a GPU torch steps on all parameters at once, on a CPU one by one.
    own = 0 if config.optimizer == "sgd" else sum(trained) if device == "cuda" else max(trained)
    earlier = sum(trained) if config.accumulate > 1 else 0
    phases = {
        "loss": earlier + activations + forward,
        "backward": earlier + activations + backward,
        "update": sum(trained) + own,
    }
    at = max(phases, key=lambda phase: phases[phase])
    parts = {"weights": weights, "gradients": sum(trained), "optimizer": state, "buffers": buffers}
    parts |= {"activations": activations, "loss": max(forward, backward), "update": own}
    peak = weights + state + buffers + phases[at]
    process = {"process": int(_PROCESS_SHARE * peak + _PROCESS_BYTES)} if device == "cpu" else {}
    return {**parts, "peak": peak, **process, "at": at}


def check_memory(vocab_size: int, config: Config) -> None:
    """Raise InputError if a training step on the CPU needs more memory than this machine has."""
    try:
        needed = int(memory(build(vocab_size, config), config, "cpu")["peak"])
    except (RuntimeError, TypeError, OverflowError):  # sizes past what torch counts
        needed = None
    sizes = {name: getattr(config, name) for name in ("embedding", "hidden", "layers", "batch", "length", "accumulate")}
    check_fits(needed, f"{vocab_size:,} classes, {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")


def _of_head(head: Any, counts: np.ndarray | None) -> int:
    """Numbers of the head's matrices that a token is multiplied with."""
    if samples := _samples(head):
        return (samples + 1) * int(head.weight.shape[1])
    if counts is None or not hasattr(head, "tails"):
        return _matrices(head)
    parts = np.split(counts, head.cutoffs)[1:]
    shares = [float(part.sum() / counts.sum()) for part in parts]
    return _matrices(head.first) + int(sum(s * _matrices(t) for s, t in zip(shares, head.tails, strict=True)))


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def _samples(head: Any) -> int:
    """S of a head that is trained on a sample of its classes, else 0."""
    samples = int(getattr(head, "samples", 0))
    return samples if samples < head.num_classes else 0


def _layers(head: Any) -> list[nn.Module]:
    """The output layers that a head is made of: itself, or its clusters."""
    return [head.first, *(tail.softmax for tail in head.tails)] if hasattr(head, "tails") else [head]


def _gradient_bytes(parameter: nn.Parameter, model: LanguageModel, config: Config) -> int:
    """Of a dense gradient, or of the rows that are reached and their places."""
    if not config.sparse or len(parameter) != model.num_types:
        return parameter.nbytes
    rows = min(len(parameter), _samples(model.head) + 2 * _tokens(config))
    return rows * (parameter.nbytes // len(parameter) + 8)


def _tokens(config: Config) -> int:
    return config.batch // config.accumulate * config.length


def _optimizer_bytes(model: LanguageModel, config: Config) -> int:
    """After a step, which gives it its state: of numbers that are nowhere."""
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values()]
    model.zero_grad()
    return sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))


def _activations(model: LanguageModel, config: Config, device: str) -> int:
    H, E, low = config.hidden, config.embedding, config.precision == "bf16"
    plain = _KEPT[config.precision if multiplies_low(device) else "fp32"]  # which is what the LSTM runs in there
    kept = _KEPT_NORM if config.layer_norm else plain
    a_token = 4 * config.layers * H * kept + E * (4 + (5 if config.dropout else 0))  # of dropout: what stays, and which
    if config.projection:
        a_token += (2 if low else 4) * E
    copies = 2 * (_matrices(model) - sum(map(_matrices, _layers(model.head)))) if low else 0  # of weights in bfloat16
    return int(_tokens(config) * a_token) + copies


def _loss(model: LanguageModel, config: Config, device: str) -> tuple[int, int]:
    """At the peaks of the forward and of the backward pass."""
    N, dtype = _tokens(config), torch.bfloat16 if config.precision == "bf16" else torch.float32
    if samples := _samples(model.head):
        return sampled_bytes(N, samples, *model.head.weight.shape, sparse=config.sparse)
    scratch, gradients = 0, 0
    for layer in _layers(model.head):
        V, D = cast(torch.Tensor, layer.weight).shape
        own = 4 * (V * D + N * D)
        gradients += own + 4 * V * config.bias
        scratch = max(scratch, loss_bytes(N, V, D, dtype, device) - own)
    return gradients + scratch, gradients
