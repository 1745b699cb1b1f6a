"""Checkpoints that somebody else made and sealed: what is not ours is refused by an error that names the file."""

import hashlib
import io
import pickle
import random
import zipfile

import pytest
import torch

from firstsight.errors import InputError
from firstsight.lab.runs.checkpoint import (
    SEAL,
    TENSORS,
    array,
    load_checkpoint,
    load_optimizer,
    load_weights,
    save_checkpoint,
)
from firstsight.lab.runs.optimizer import make_optimizer
from firstsight.lab.system.shape import WHOLE

REFUSED = r"best\.pt: this is no checkpoint of firstsight"


def sealed(path, content: bytes) -> None:
    """With a checksum that fits, as whoever makes such a file on purpose would."""
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content + len(digest).to_bytes(2, "little") + digest)


def itself() -> list:
    found: list = []
    found.append(found)
    return found


def doubling(depth: int) -> list:
    found = [0]
    for _ in range(depth):
        found = [found, found]
    return found


def test_sealed_noise_is_refused(tmp_path):
    path, draw = tmp_path / "best.pt", random.Random(0)
    save_checkpoint(path, {"step": 1, "model": {"a": torch.ones(3)}})
    whole = path.read_bytes()[:-SEAL]
    for number in range(150):
        content = bytearray(whole)
        for _ in range(1 + number % 5):
            content[draw.randrange(len(content))] = draw.randrange(256)
        cut = content[: draw.randrange(len(content))] if number % 3 == 0 else content
        sealed(path, draw.randbytes(200) if number % 10 == 0 else bytes(cut))
        try:
            load_checkpoint(path, {"step": WHOLE, "model": TENSORS})
        except InputError as error:
            assert "best.pt" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "value",
    [
        10**4000,
        itself(),
        {1, 2},
        b"bytes",
        1j,
        torch.float32,
        torch.nn.Parameter(torch.ones(1)).to_sparse(),
    ],
    ids=["digits", "itself", "a set", "bytes", "complex", "a dtype", "sparse"],
)
def test_values_that_no_checkpoint_holds_are_refused(value, tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": value if isinstance(value, torch.Tensor) else {"a": torch.ones(1)}, "other": value})
    with pytest.raises(InputError, match=r"best\.pt: "):
        load_checkpoint(path, {"model": TENSORS})


def test_a_list_that_is_held_twice_is_looked_at_once(tmp_path):
    save_checkpoint(tmp_path / "best.pt", {"other": doubling(25)})
    with pytest.raises(InputError, match=r"best\.pt: model is missing"):
        load_checkpoint(tmp_path / "best.pt", {"model": TENSORS})


def test_lists_nested_past_any_stack_are_refused(tmp_path):
    path, buffer = tmp_path / "best.pt", io.BytesIO()
    torch.save({"format": 1, "model": {}}, buffer)
    nested = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(out, "w") as hostile:
        for name in archive.namelist():
            hostile.writestr(name, nested if name.endswith("data.pkl") else archive.read(name))
    sealed(path, out.getvalue()[:-2])
    with pytest.raises(InputError, match=REFUSED):
        load_checkpoint(path)


def test_what_is_compressed_is_not_unpacked(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(10**7))
    sealed(tmp_path / "best.pt", out.getvalue()[:-2])
    with pytest.raises(InputError, match=rf"{REFUSED}.*compressed"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_checkpoint_of_something_else_says_what_it_lacks(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"step": "7", "model": {"a": torch.ones(3)}})
    for shape, said in (
        ({"step": WHOLE}, "step is '7'; expected a whole number"),
        ({"rng": None}, "rng is missing"),
        (
            {"model": {"a": array((4,), torch.float32, "the weights")}},
            r"model\.a is .*expected the weights, float32 \[4\]",
        ),
    ):
        with pytest.raises(InputError, match=rf"best\.pt: {said}"):
            load_checkpoint(path, shape)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": torch.ones(2, 3, dtype=torch.float64)}, "torch.float64 and not torch.float32"),
        ({"weight": torch.ones(2, 4)}, "size mismatch"),
        ({"weight": torch.full((2, 3), torch.inf)}, "no finite number"),
        ({"weight": "w"}, "tensors by name"),
        ({"more": torch.ones(1)}, "Unexpected key"),
    ],
)
def test_weights_of_another_kind_are_refused(change, said, tmp_path):
    model = torch.nn.Linear(3, 2)
    state = {"model": {**model.state_dict(), **change}}
    with pytest.raises(InputError, match=rf"best\.pt: .*{said}"):
        load_weights(model, state, tmp_path / "best.pt")


def trained(name, **more):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(model.parameters(), name, 0.1, **more)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["rmsprop", "adam", "adagrad", "sgd"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_comes_back(name, momentum, tmp_path):
    (_, one), (_, other) = trained(name, momentum=momentum), trained(name, momentum=momentum)
    for _ in range(3):
        one.step()
    load_optimizer(other, {"optimizer": one.state_dict()}, tmp_path / "last.pt")
    for kept, again in zip(one.state.values(), other.state.values(), strict=True):
        assert kept.keys() == again.keys()
        assert all(
            torch.equal(torch.as_tensor(kept[key]), torch.as_tensor(again[key]))
            for key in kept
            if kept[key] is not None
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.update(state=[]),
        lambda saved: saved.pop("param_groups"),
        lambda saved: saved.update(param_groups=[{"params": [0]}]),
        lambda saved: saved["state"].update({7: saved["state"][0]}),
        lambda saved: saved["state"].update(a={}),
        lambda saved: saved["state"][0].pop("exp_avg"),
        lambda saved: saved["state"][0].update(exp_avg=torch.ones(5)),
        lambda saved: saved["state"][0].update(exp_avg=torch.ones(2, 3, dtype=torch.int64)),
        lambda saved: saved["state"][0].update(step="x"),
        lambda saved: saved["state"].update({0: None}),
    ],
    ids=range(10),
)
def test_an_optimizer_of_another_kind_is_refused(change, tmp_path):
    saved = trained("adam")[1].state_dict()
    change(saved)
    with pytest.raises(InputError, match=r"last\.pt"):
        load_optimizer(trained("adam")[1], {"optimizer": saved}, tmp_path / "last.pt")
