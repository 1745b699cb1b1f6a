"""A classifier as one file: safetensors, whose tensors are the layer's and one of JSON, with a checksum of them all.

Shapes: C classes, D features.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.estimator.labels import Known, as_labels, kind_of
from firstsight.estimator.rows import Rows
from firstsight.estimator.settings import device_of
from firstsight.heads import HebbianSoftmax
from firstsight.scaling import Scaling

FORMAT, VERSION = "firstsight.FirstSightClassifier", 2  # 1: without "layer", and settings that came since
NUMBERS = ("n_features_in_", "feature_names_in_", "n_iter_", "unknown_threshold_")
_HEAD = "head."
_OF_LAYER = ("rule", "objective", "T", "gamma", "prior_count", "price", "cap", "ignore_index")
_PER_CLASS = ("weight", "bias", "counts", "fresh")


def save(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    known: Known,
    rows: Rows,
    scaling: Scaling,
) -> None:
    """Write it beside ``path`` and rename it when it is whole.

    Args:
        path: the file.
        settings: the arguments of the classifier.
        own: its attributes of ``NUMBERS``.
        known, rows, scaling: its parts. Spare rows are not written.
    """
    told = {
        "settings": _plain(settings),
        "layer": _numbers({name: getattr(rows.head, name) for name in _OF_LAYER}),
        "attributes": {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in own.items()},
        "labels": {"kind": kind_of(known.classes), "values": known.classes.tolist()},
        "scaling": {"unit": scaling.unit, "length": scaling.length},
        "firstsight": __version__,
    }
    state = rows.head.state_dict()
    of_all = len(state["weight"])
    tensors = {
        _HEAD + name: value[: rows.used] if name in _PER_CLASS and len(value) == of_all else value
        for name, value in state.items()
    }
    tensors["rows"] = torch.from_numpy(known.rows)
    tensors["mean"] = torch.from_numpy(scaling.mean_D)
    tensors["json"] = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    head = {"format": FORMAT, "version": str(VERSION), "sha256": _checksum(tensors)}
    _write(Path(path), tensors, head)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON has them: a dict of labels as pairs, for its keys need be no strings."""
    found = _numbers(settings)
    if isinstance(found["random_state"], np.random.RandomState):
        raise InputError(
            "random_state is a generator, which cannot be saved. Give a number, set_params(random_state=0)."
        )
    if isinstance(found["class_weight"], Mapping):
        pairs = found["class_weight"].items()
        found["class_weight"] = [[getattr(key, "item", lambda key=key: key)(), float(value)] for key, value in pairs]
    found["device"] = None  # where it is loaded is for the one who loads it to say
    return found


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """With Python's own in place of numpy's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_kind(path: Path) -> None:
    """Refuse what is no file: a pipe would be waited for without end, and a device replaced by the file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe" if path.is_fifo() else "a socket or a device"
        raise InputError(f"{path}: this is {kind}; expected the name of a file, such as classifier.safetensors.")


def _write(path: Path, tensors: dict[str, Tensor], head: dict[str, str]) -> None:
    _check_kind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, head)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:  # of the disk, which it does not tell from others
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str], device: torch.device | str | None
) -> tuple[dict[str, Any], dict[str, Any], Known, Rows, Scaling]:
    """The arguments, attributes and parts that ``save`` wrote.

    Raises:
        InputError: the file is not there, damaged, of something else or of a newer version, or there is no such device.
    """
    place = device_of(device)
    tensors = _read(Path(path))
    try:
        told = json.loads(tensors.pop("json").numpy().tobytes())
        state = {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
        settings = dict(told["settings"], device=None if device is None else str(device))
        if isinstance(settings["class_weight"], list):
            settings["class_weight"] = dict(settings["class_weight"])
        V, D = state["weight"].shape
        head = HebbianSoftmax(D, V, **told.get("layer", {"price": settings["price"]}))
        head.load_state_dict(state)
        known = Known(as_labels(told["labels"]["values"]), tensors["rows"].numpy())
        scaling = Scaling(tensors["mean"].numpy(), told["scaling"]["unit"], told["scaling"]["length"])
        own = told["attributes"]
        if "feature_names_in_" in own:
            own["feature_names_in_"] = np.array(own["feature_names_in_"], dtype=object)
        met = np.sort(known.rows[known.rows >= 0])
        agree = (
            known.rows.shape == known.classes.shape
            and known.rows.dtype == np.int64
            and np.array_equal(met, np.arange(V))
        )
        agree = agree and set(own) <= set(NUMBERS) and own["n_features_in_"] == D and _is_scaling(scaling, D)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is not what save wrote: {str(error)[:500]}") from error
    if not agree:
        raise InputError(f"{path}: its labels, rows and features do not fit each other. Save the classifier anew.")
    return settings, own, known, Rows(head.to(place).eval()), scaling


def _is_scaling(scaling: Scaling, features: int) -> bool:
    mean_D, numbers = scaling.mean_D, (scaling.unit, scaling.length)
    sound = mean_D.shape == (features,) and mean_D.dtype == np.float64 and bool(np.isfinite(mean_D).all())
    return sound and all(isinstance(one, float) and 0 < one < np.inf for one in numbers)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise InputError(f"{path}: there is no such file; expected one that FirstSightClassifier.save wrote.")
    _check_kind(path)
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT:
                raise InputError(f"{path} holds tensors, but no FirstSightClassifier; expected what its save wrote.")
            if int(head["version"]) > VERSION:
                raise InputError(
                    f"{path} is of layout {head['version']}, of a newer firstsight; this one reads up to {VERSION}."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged, or no file that FirstSightClassifier.save wrote ({error}).") from error
    if head.get("sha256") != _checksum(tensors):
        raise InputError(f"{path} is damaged: its content is not what its checksum says. Save the classifier anew.")
    return tensors
