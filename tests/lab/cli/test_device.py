"""``--device``: one flag on every command that puts a model somewhere, and what is refused."""

from collections import namedtuple

import pytest
import torch
from command import TINY, assert_refused, call, write_text

from firstsight.errors import InputError
from firstsight.lab.lm.run import open_run
from firstsight.lab.system import devices, distributed
from firstsight.lab.system.machine import provenance

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what is there on a machine without a GPU")


@needs_no_gpu
@pytest.mark.parametrize("command", ["train", "dry run", "eval", "eval --memory", "score", "adapt", "sweep memory"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(command, data, trained, tmp_path, capfd):
    text = write_text(tmp_path / "text.txt", lines=20)
    arguments = {
        "train": ["train", data, "--out", tmp_path / "run", *TINY],
        "dry run": ["train", data, "--out", tmp_path / "run", "--dry-run", *TINY],
        "eval": ["eval", trained],
        "eval --memory": ["eval", trained, "--memory", "cache"],
        "score": ["score", trained, text],
        "adapt": ["adapt", trained],
        "sweep memory": ["sweep", "memory", trained],
    }[command]
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert_refused(call(capfd, *arguments, "--device", "cuda:1"), "device is 'cuda:1'", "auto, cpu")
    assert not (tmp_path / "run").exists()
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_names_that_are_no_device(data, tmp_path, capfd):
    for name in ("gpu", "cuda:x", "cpu:3", "meta"):
        found = call(capfd, "train", data, "--out", tmp_path / "run", *TINY, "--device", name)
        assert_refused(found, f"device is '{name}'", "expected auto, cpu")


def test_on_the_cpu_by_name_the_run_is_the_same(data, trained, tmp_path, capfd):
    code, _, err = call(capfd, "train", data, "--out", tmp_path / "run", *TINY, "--device", "cpu")
    assert code == 0, err
    one, other = (open_run(folder, device="cpu").model.state_dict() for folder in (tmp_path / "run", trained))
    assert all(value.device.type == "cpu" for value in one.values())
    if not torch.cuda.is_available():  # where auto is the CPU too
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"H{device}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_names_on_a_machine_with_gpus(two_gpus):
    assert devices.there() == ["cpu", "cuda:0", "cuda:1"]
    assert devices.find_device() == torch.device("cuda")
    assert devices.find_device("cuda:1") == torch.device("cuda:1")
    assert devices.find_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="'cuda:2', which is not there; expected auto, cpu, cuda:0, cuda:1"):
        devices.find_device("cuda:2")


def test_a_result_names_the_machine_it_was_made_on(two_gpus):
    assert provenance()["machine"].startswith("HNone")
    assert provenance(torch.device("cuda:1"))["machine"].startswith("Hcuda:1")
    assert not provenance(torch.device("cpu"))["machine"].startswith("H")


def test_training_is_put_where_it_was_asked(two_gpus, monkeypatch):
    Asked = namedtuple("Asked", ("accelerator", "devices", "precision"))
    monkeypatch.setattr(distributed, "Fabric", Asked)
    assert distributed.start("32-true", "cuda:1")[0] == Asked("cuda", [1], "32-true")
    assert distributed.start("32-true")[0] == Asked("cuda", 1, "32-true")
    assert distributed.start("32-true", "cpu")[0] == Asked("cpu", 1, "32-true")


def test_of_several_processes_each_has_its_own(two_gpus, monkeypatch):
    monkeypatch.setattr(distributed.job, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.job, "check_launcher", lambda: None)
    monkeypatch.setattr(distributed.job, "local_world_size", lambda: 2)
    with pytest.raises(InputError, match=r"'cuda:1', and there are 2 processes.*CUDA_VISIBLE_DEVICES"):
        distributed.start("32-true", "cuda:1")
