"""What jobs say while they are at work; and that what their processes call is there: no import checks a text."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import walk_packages

import torch

import firstsight.lab
from firstsight.lab.runs import jobs
from firstsight.lab.runs.jobs import WORKER, Ended, Job

TOLD = json.dumps({"command": ["x"], "does": "builtins:len"})
WORKER_ALONE = f"sys.argv = ['w', {TOLD!r}]; from firstsight.lab.runs.worker import main; main()"


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


def test_long_jobs_say_how_far_they_are(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(jobs, "QUIET", 0.2)
    program = f"import time, pathlib; time.sleep(0.4); pathlib.Path({str(tmp_path / 'job' / 'done')!r}).touch()"
    monkeypatch.setattr(jobs, "WORKER", "timeit")  # python -m timeit PROGRAM, whatever its numbers
    monkeypatch.setattr(jobs.json, "dumps", lambda told: program)
    assert jobs.run_all([Waiting(tmp_path / "job")], tmp_path, "a test", workers=1) == ""
    assert "at work: slow one 25%" in capfd.readouterr().err


def test_the_processes_of_jobs_and_commands_take_denormals_for_zero():
    """A softmax that is sure of itself has gradients full of them, and a step took seven times as long."""
    for start in ("from firstsight.lab.cli import main; main(['--help'])", WORKER_ALONE):
        tiny = "import torch; print(float((torch.tensor([1e-30]) * torch.tensor([1e-10]))[0]))"
        program = f"import sys\ntry:\n    {start}\nexcept SystemExit: pass\n{tiny}"
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        found = process.stdout.read().decode().splitlines()[-1]  # a worker ends when its standard input does
        assert process.wait() == 0
        assert (float(found) == 0.0) == torch.set_flush_denormal(True), start
    torch.set_flush_denormal(False)


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
