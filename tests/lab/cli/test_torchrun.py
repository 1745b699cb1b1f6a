"""``torchrun -m firstsight train`` as a user starts it: to its end, killed in its midst, ended by a signal, refused."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import TINY, call
from forked import wait_for
from ranks import job, rank_pids

from firstsight.lab.runs.checkpoint import load_checkpoint

ENDS_WITHIN = 40  # seconds: what docs/parallel.md says
ENDLESS = ["--steps=1000000", "--checkpoint-every=1", "--batch=6"]


def torchrun(folder: Path, ranks: int, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with open(folder / "stdout.txt", "w") as out, open(folder / "stderr.txt", "w") as err:
        return subprocess.Popen([*command, "-m", "firstsight", *map(str, arguments)], stdout=out, stderr=err)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def said(folder: Path) -> list[str]:
    return [line for line in (folder / "stderr.txt").read_text().splitlines() if line.startswith("firstsight: ")]


def test_a_run_of_two_processes_leaves_what_a_run_of_one_leaves(data, trained, tmp_path):
    assert torchrun(tmp_path, 2, "train", data, "--out", tmp_path / "run", *TINY).wait(100) == 0
    assert files(tmp_path / "run") == files(trained)
    table = (tmp_path / "stdout.txt").read_text()
    assert table.count("valid perplexity") == table.count("Report: ") == 1
    errors = (tmp_path / "stderr.txt").read_text()
    assert errors.count("step 20 ") == 1, "rank 0 alone speaks"
    assert "Warning" not in errors


def test_a_killed_process_ends_the_others_and_the_run_goes_on(data, tmp_path, capfd):
    out = tmp_path / "run"
    agent = torchrun(tmp_path, 3, "train", data, "--out", out, *TINY, *ENDLESS)
    wait_for((out / "checkpoints/last.pt").exists, agent)
    pids = rank_pids(agent.pid)
    assert sorted(pids) == [0, 1, 2]
    os.kill(pids[1], signal.SIGKILL)
    start = time.monotonic()
    assert agent.wait(100) != 0
    assert time.monotonic() - start < ENDS_WITHIN
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    sentence = rf"firstsight: rank 1 \(process {pids[1]} on .*\) is gone, .* with --resume goes on .*"
    assert [line for line in said(tmp_path) if not re.fullmatch(sentence, line)] == []
    assert len(said(tmp_path)) == 1
    assert (tmp_path / "stderr.txt").read_text().count("Traceback") == 1, "that of torchrun itself"
    assert not list(out.rglob("*.part"))
    step = load_checkpoint(out / "checkpoints/last.pt")["step"]
    assert call(capfd, "train", data, "--out", out, "--resume", f"--steps={step + 3}")[0] == 0
    assert load_checkpoint(out / "checkpoints/last.pt")["step"] == step + 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_after_the_same_step(number, data, tmp_path):
    out = tmp_path / "run"
    with job(2, tmp_path, "train", data, "--out", out, *TINY, *ENDLESS) as running:
        wait_for((out / "checkpoints/last.pt").exists)
        os.kill(running.pid, number)
        running.wait()
    errors = (tmp_path / "stderr.txt").read_text()
    assert errors.count(f"{number.name}: ending after this step, with a checkpoint") == 1
    step = load_checkpoint(out / "checkpoints/last.pt")["step"]
    assert f"stopped at step {step:,} by {number.name}" in errors
    assert "Traceback" not in errors
    assert not list(out.rglob("*.part"))


def test_a_killed_first_rank_is_named_by_another(data, tmp_path):
    out = tmp_path / "run"
    with job(3, tmp_path, "train", data, "--out", out, *TINY, *ENDLESS) as running:
        wait_for((out / "checkpoints/last.pt").exists)
        os.kill(running.pid_of(0), signal.SIGKILL)
        running.wait()
        assert len(said(tmp_path)) == 1
        assert said(tmp_path)[0].startswith(f"firstsight: rank 0 (process {running.pid_of(0)} on ")


def test_a_job_that_torchrun_restarts_goes_on(data, tmp_path):
    out, steps = tmp_path / "run", ["--steps=150", "--checkpoint-every=1"]
    with job(2, tmp_path, "train", data, "--out", out, *TINY, *steps, "--resume", restarts=1) as running:
        wait_for((out / "checkpoints/last.pt").exists)
        os.kill(running.pid_of(1), signal.SIGKILL)
        running.wait()
    assert "resumed at step " in (tmp_path / "stderr.txt").read_text()
    assert load_checkpoint(out / "checkpoints/last.pt")["step"] == 150
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "nowhere: there is no such folder"),
        (["train", "DATA", "--lr=-1"], "lr is -1.0; expected above 0"),
        (["train", "DATA", "--batch=2"], "there are 3 of them; expected at least one sequence for each"),
        (["eval", "runs/mine"], "of all commands torchrun can start firstsight train alone"),
    ],
)
def test_bad_input_is_told_once_and_hangs_nobody(arguments, message, data, tmp_path):
    given = [str(data) if argument == "DATA" else argument for argument in arguments]
    out = ["--out", tmp_path / "run"] if given[0] == "train" else []
    with job(3, tmp_path, *given, *out) as running:
        running.wait()
    assert len(said(tmp_path)) == 1
    assert message in said(tmp_path)[0]
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
    assert not (tmp_path / "stdout.txt").read_text()
    assert not (tmp_path / "run").exists()


def test_what_stops_rank_0_is_told_once(data, tmp_path):
    """It cannot save; the others, who only notice that it is gone, leave the word to it."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoints").write_text("no folder")
    with job(3, tmp_path, "train", data, "--out", out, *TINY) as running:
        running.wait()
    assert len(said(tmp_path)) == 1
    assert "checkpoints: File exists. No file was left half-written" in said(tmp_path)[0]
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
