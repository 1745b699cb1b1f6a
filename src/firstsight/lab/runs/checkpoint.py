"""Checkpoints: whole or not at all, sealed with a checksum, and never unpickled from outside."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write, naming, read_bytes
from firstsight.lab.system.shape import DEEPEST, Kind, Shape, check_shape, shorten

FORMAT = 1
SEAL = 66  # bytes at the end of a checkpoint that hold its checksum
TENSORS = Kind(
    lambda value: isinstance(value, Mapping) and all(map(_is_plain_tensor, value.values())), "tensors by name"
)
_PLAIN = (str, int, float, bool, type(None))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. A full disk raises ``OSError`` and leaves the one before."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getbuffer()
    assert bytes(content[-2:]) == b"\0\0", "torch wrote a zip archive with a comment"
    with atomic_write(path, "wb") as file:
        file.write(content[:-2])
        file.write(_seal(content[:-2]))


def _seal(content: memoryview) -> bytes:
    """The SHA-256 of a zip archive as its comment, which ends it: its length in two bytes, then its text.

    The archive's own checksums do not cover its directory: bytes flipped there changed weights unnoticed. For
    ``torch.load`` and ``unzip`` the file is as ever.
    """
    digest = hashlib.sha256(content).hexdigest().encode()
    return len(digest).to_bytes(2, "little") + digest


def load_checkpoint(path: Path, shape: Shape = None) -> dict[str, Any]:
    """Read a checkpoint, after checking that every byte is as it was written, and that it has what ``shape`` says.

    Raises:
        InputError: there is none, it is damaged, or it holds something else, whoever sealed it.
    """
    mend = f"Put a copy of it back, use the other checkpoint in {path.parent}, or train again into another folder."
    if not path.exists():
        raise InputError(
            f"{path}: there is no such checkpoint. A run has one after its first checkpoint_every steps, or when it "
            "has ended: is this the folder of a run that got so far?"
        )
    content = read_bytes(path, "a checkpoint")
    end = len(content) - SEAL
    if end < 0 or content[end:] != _seal(memoryview(content)[:end]):
        raise InputError(f"{path}: this is no checkpoint, or a damaged one: its checksum does not fit. {mend}")
    try:
        state = _unpacked(content)
        _check_values(state)
    except Exception as error:  # torch promises nothing of what it raises of bytes that it did not write
        raise InputError(f"{path}: this is no checkpoint of firstsight ({_first_line(error)}). {mend}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, which this version of firstsight writes.")
    if shape is not None:
        check_shape(state, shape, str(path), mend)
    return state


def _unpacked(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("it is compressed, as no checkpoint is")  # a small file that fills any memory
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_values(state: Any) -> None:
    """Raise ValueError unless these are plain values and tensors, not too deep to be walked through.

    A pickle may hold a list in itself, or twice: thirty lists of two make a billion values, and are looked at once.
    """
    level: list[Any] = [[state]]
    for _ in range(DEEPEST):
        below: dict[int, Any] = {}
        for values in level:
            for one in values:
                if isinstance(one, Mapping):
                    below[id(one)] = [*one.keys(), *one.values()]
                elif isinstance(one, (list, tuple)):
                    below[id(one)] = one
                elif not isinstance(one, (*_PLAIN, torch.Tensor)):
                    raise ValueError(f"it holds a {type(one).__name__}")
                elif isinstance(one, int) and not -(2**63) <= one < 2**64:
                    raise ValueError("a whole number has more than 64 bits")
        if not below:
            return
        level = list(below.values())
    raise ValueError("its values are nested too deep")


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized


def array(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Kind:
    """A tensor of exactly that shape and type; ``what`` it is, for errors: "the sights of 1,000 classes"."""
    return Kind(
        lambda value: _is_plain_tensor(value) and value.dtype == dtype and tuple(value.shape) == shape,
        f"{what}, {str(dtype).removeprefix('torch.')} {list(shape)}",
    )


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path, *, diverged: bool = False) -> None:
    """Put a checkpoint's weights into a model: all finite, unless the run is known to have ``diverged``."""
    own, given = model.state_dict(), state.get("model")
    if not TENSORS.holds(given):
        raise InputError(f"{path}: model is missing or of another kind; expected {TENSORS.expected}. Train again.")
    assert isinstance(given, Mapping)  # for type checkers
    unlike = [name for name in own if name in given and own[name].dtype != given[name].dtype]
    try:
        if unlike:  # torch would round or cut them to the model's kind without a word
            raise ValueError(f"{unlike[0]} is {given[unlike[0]].dtype} and not {own[unlike[0]].dtype}")
        model.load_state_dict(given, strict=True)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: the checkpoint is of another model than the settings beside it say ({_first_line(error)}). "
            "Put back the config.yaml it was trained with, or train again."
        ) from error
    if not diverged and not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise InputError(
            f"{path}: a weight is no finite number: the model has diverged, or somebody altered it. Train again, with "
            "a smaller --lr or --clip."
        )


def load_optimizer(optimizer: Any, state: dict[str, Any], path: Path) -> None:
    """Put back what a checkpoint keeps of an optimizer, torch's or what Fabric puts around one.

    Its settings stay those that it was made with: what a run may not change has been compared by now.
    """
    with naming(path, "a checkpoint to go on from", "Train again."):
        groups, saved = optimizer.state_dict()["param_groups"], state["optimizer"]
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
            raise InputError("the optimizer was of another number of parameters. Train again.")
        inner = getattr(optimizer, "optimizer", optimizer)
        parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
        kept, ours = saved["state"], _kept_of_one(inner)
        sound = all(
            0 <= at < len(parameters) and _fits(kept[at], ours, parameters[at]) for at in kept
        )  # those without a gradient have none
        if not sound:
            raise InputError("what the optimizer keeps of a weight is missing or of another kind. Train again.")
        optimizer.load_state_dict({"state": kept, "param_groups": groups})


def _kept_of_one(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer like this one keeps of a parameter of one number, after a step."""
    one = torch.zeros(1, requires_grad=True)
    one.grad = torch.zeros(1)
    kind = next(kind for kind in type(optimizer).__mro__ if kind.__module__.startswith("torch.optim"))
    like = kind([one], **optimizer.defaults)
    like.step()
    return dict(like.state[one])


def _fits(kept: Mapping[str, Any], ours: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    """Whether these are such values as the optimizer keeps of a parameter."""
    if kept.keys() != ours.keys():
        return False
    for name, like in ours.items():
        value = kept[name]
        if not isinstance(like, torch.Tensor):
            if type(value) is not type(like):
                return False
            continue
        shape = parameter.shape if like.ndim else torch.Size([])
        if not _is_plain_tensor(value) or value.dtype != like.dtype or value.shape != shape:
            return False
    return True


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(" ".join(lines[:2]), 300) if lines else type(error).__name__
