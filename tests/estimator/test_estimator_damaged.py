"""Files of a classifier whose checksum fits, made by somebody else: refused by an error that names the file."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.estimator.stored import _checksum


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    g = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    FirstSightClassifier(epochs=1).fit(g.normal(size=(30, 4)), [f"{i % 3}" for i in range(30)]).save(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def told(**changes):
    """With other values in its JSON."""

    def change(tensors):
        values = json.loads(tensors["json"].numpy().tobytes())
        for place, value in changes.items():
            inner, _, name = place.rpartition("__")
            (values[inner] if inner else values)[name] = value
        return {"json": as_bytes(json.dumps(values).encode())}

    return change


def as_bytes(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


CHANGES = {
    "deep": lambda tensors: {"json": as_bytes(b"[" * 100_000)},
    "digits": lambda tensors: {"json": as_bytes(b"9" * 5000)},
    "a list": lambda tensors: {"json": as_bytes(b"[1]")},
    "settings": told(settings=[1]),
    "a setting": told(settings__nothing=1),
    "attributes": told(attributes=[]),
    "an attribute": told(attributes__fit=1),
    "features": told(attributes__n_features_in_=3),
    "labels": told(labels__values={"a": 1}),
    "unit": told(scaling__unit=None),
    "length": told(scaling__length=float("nan")),
    "T": told(layer__T="x"),
    "mean": lambda tensors: {"mean": torch.zeros(0)},
    "a mean of another kind": lambda tensors: {"mean": tensors["mean"].float()},
    "rows": lambda tensors: {"rows": tensors["rows"] + 1},
    "rows of floats": lambda tensors: {"rows": tensors["rows"].double()},
    "counts": lambda tensors: {"head.counts": tensors["head.counts"].float()},
    "weight": lambda tensors: {"head.weight": tensors["head.weight"].flatten()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_save_did_not_write_is_refused(change, saved, tmp_path):
    path, (tensors, head) = tmp_path / "c.safetensors", saved
    tensors = {**tensors, **change(tensors)}
    save_file(tensors, path, {**head, "sha256": _checksum(tensors)})
    with pytest.raises(InputError, match=r"c\.safetensors"):
        FirstSightClassifier.load(path)
