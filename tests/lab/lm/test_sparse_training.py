"""A run with sparse steps is the run with dense ones, and resumes; what it cannot be is said."""

import dataclasses

import pytest
import torch

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.run import check_folder, open_run
from firstsight.lab.lm.training import train

SETTINGS = Config(
    embedding=8,
    hidden=12,
    batch=4,
    length=10,
    steps=6,
    eval_every=3,
    checkpoint_every=3,
    samples=15,
    sparse=True,
    optimizer="adagrad",
    lr=0.05,
    bias=True,
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["softmax", "hebbian"])
def test_it_is_the_run_with_dense_steps(corpus, tmp_path, head, tied):
    found = []
    for sparse in (True, False):
        out = tmp_path / str(sparse)
        train(corpus, out, dataclasses.replace(SETTINGS, head=head, tied=tied, sparse=sparse))
        found.append(open_run(out, "last").model.state_dict())
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_it_resumes_bit_for_bit(corpus, tmp_path):
    train(corpus, tmp_path / "straight", SETTINGS)
    train(corpus, tmp_path / "parts", SETTINGS, watch=lambda line: line["step"] < 3)
    train(corpus, tmp_path / "parts", SETTINGS, resume=True)
    straight, parts = (open_run(tmp_path / name, "last").model.state_dict() for name in ("straight", "parts"))
    for name, value in straight.items():
        assert torch.equal(value, parts[name]), name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 0}, "sparse is True; expected false where samples is 0"),
        ({"optimizer": "rmsprop"}, "sparse is True; expected false, or optimizer to be adagrad or sgd"),
        ({"optimizer": "sgd", "momentum": 0.9}, "without momentum"),
        ({"weight_decay": 0.1}, "without momentum and weight_decay"),
    ],
)
def test_what_it_cannot_be(given, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(SETTINGS, **given)


def test_a_job_of_several_processes(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="sparse is true in a job of 2 processes; expected one process"):
        check_folder(tmp_path / "run", SETTINGS, False)
