"""What jobs say while they are at work; and that what their processes call is there: no import checks a text."""

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import walk_packages
from types import SimpleNamespace

import pytest
import torch

import firstsight.lab
from firstsight.lab import cli
from firstsight.lab.runs import jobs, worker
from firstsight.lab.runs.jobs import WORKER, Ended, Job


@dataclass(frozen=True)
class Waiting(Job):
    """A job that is done when its process has written a file, and tells how far it is."""

    folder: Path
    does = "time:sleep"
    title = "slow one"
    work = 1.0

    def share(self):
        return 0.25

    def told(self):
        return {}

    def ended(self):
        return Ended("done") if (self.folder / "done").exists() else None


def test_long_jobs_say_how_far_they_are(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(jobs, "say", said.append)
    monkeypatch.setattr(jobs, "QUIET", 0.2)
    program = f"import time, pathlib; time.sleep(0.4); pathlib.Path({str(tmp_path / 'job' / 'done')!r}).touch()"
    monkeypatch.setattr(jobs, "WORKER", "timeit")  # python -m timeit PROGRAM, whatever its numbers
    monkeypatch.setattr(jobs.json, "dumps", lambda told: program)
    assert jobs.run_all([Waiting(tmp_path / "job")], tmp_path, "a test", workers=1) == ""
    assert "at work: slow one 25%" in said


def tiny():
    return float((torch.tensor([1e-30]) * torch.tensor([1e-10]))[0])


def test_jobs_and_commands_take_denormals_for_zero_and_leave_them_as_they_were(tmp_path, monkeypatch):
    """A softmax that is sure of itself has gradients full of them, and a step took seven times as long."""
    found = []
    monkeypatch.setattr(cli, "_run", lambda arguments: found.append(tiny()) or 0)
    assert cli.main([]) == 0
    monkeypatch.setattr(worker.threading.Thread, "start", lambda self: None)
    monkeypatch.setattr(
        worker, "import_module", lambda name: SimpleNamespace(do=lambda told: found.append(tiny()) or 0)
    )
    monkeypatch.setattr(
        sys, "argv", ["worker", json.dumps({"command": ["x"], "does": "some:do", "holds": str(tmp_path), "kind": ""})]
    )
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit):
        worker.main()
    torch.set_num_threads(threads)
    supported = torch.set_flush_denormal(False)
    assert [value == 0.0 for value in found] == [supported] * 2
    assert tiny() > 0


def test_every_job_names_a_function_that_takes_what_it_is_told():
    for module in walk_packages(firstsight.lab.__path__, "firstsight.lab."):
        if module.name != WORKER:
            import_module(module.name)
    found = [cls.does for cls in Job.__subclasses__() if cls is not Waiting]
    assert len(found) >= 2
    for name in found:
        module, function = name.split(":")
        assert len(signature(getattr(import_module(module), function)).parameters) == 1, name
    assert callable(import_module(WORKER).main)
