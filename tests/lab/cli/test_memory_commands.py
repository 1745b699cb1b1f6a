"""``firstsight eval --memory`` and ``firstsight sweep memory`` as a user starts them, killed and interrupted too."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from command import assert_refused, call, copy, hear

# Small chunks, each saved; and each takes its time, so that a signal finds the command at work.
SLOW = """
import sys, time
import firstsight.lab.lm.reader as reader
from firstsight.lab.reading import memories, recalled
reader.BLOCK = recalled.CHUNK = 16
recalled.SAVE_EVERY = -1.0
real = memories.Recalling.read
memories.Recalling.read = lambda *given: (time.sleep(0.03), real(*given))[1]
from firstsight.lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def run(trained, tmp_path):
    return copy(trained, tmp_path / "run")


def read(found):
    code, out, err = found
    assert code == 0, err
    return json.loads(out)


def test_eval_with_memory(run, capfd):
    result = read(call(capfd, "eval", run, "--memory", "cache,mbpa", "--json"))
    names = ["model", "+ cache", "+ MbPA", "+ cache + MbPA"]
    assert [row["name"] for row in result["memory"]["variants"]] == names
    assert result["perplexity"] == result["memory"]["variants"][-1]["perplexity"]
    assert result == json.loads((run / "result.json").read_text())
    page = (run / "report.html").read_text()
    assert "Memory at test time" in page
    assert "What the memories change" in page
    assert 'href="passage.html"' in page
    assert "Met last in training" in (run / "passage.html").read_text()
    code, out, _ = call(capfd, "eval", run, "--memory", "cache", "--split", "test")
    assert code == 0
    assert "+ cache" in out
    assert "MbPA" not in out
    assert "the paper's settings" in out
    assert read(call(capfd, "eval", run, "--json"))["memory"] is None
    assert "Memory at test time" not in (run / "report.html").read_text()


def test_sweep_and_its_file(run, capfd, tmp_path):
    flags = ["--first", "100", "--tokens", "30", "--two-step-tokens", "2"]
    found = read(call(capfd, "sweep", "memory", run, *flags, "--json"))
    axes = {"theta": [0.1, 0.2, 0.3], "size": [1000, 5000, 8000, 9000, 10_000]}  # of appendix A.2
    axes["weight"] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    points = [tuple(row[name] for name in axes) for row in found["cache"]["grid"]]
    assert points == list(itertools.product(*axes.values()))
    axes = {"k": {512, 1024}, "lr": {0.1, 0.3, 1.0, 3.0}, "mbpa_weight": {0, 0.02, 0.04, 0.06, 0.08, 0.1}}
    assert {name: {row[name] for row in found["mbpa"]["grid"]} for name in axes} == axes
    assert len(found["mbpa"]["grid"]) == 2 * 4 * 6 * 8
    assert [row["k"] for row in found["mbpa"]["two_steps"]["grid"]] == [512, 1024]
    assert found == json.loads((run / "memory/sweep.json").read_text())
    result = read(call(capfd, "eval", run, "--memory", "cache", "--tuned", run / "memory/sweep.json", "--json"))
    weight = found["chosen"]["mixtures"][0]["weights"]["cache"]
    assert result["memory"]["cache"] == {**found["chosen"]["cache"], "weight": weight}
    assert "memory_mbpa" in (run / "report.html").read_text()
    code, out, err = call(capfd, "sweep", "memory", run, "--memory=cache", "--split-tokens", "60")
    assert code == 0, err
    assert "paper" in out
    assert f"firstsight eval {run} --split test --memory cache --tuned" in out
    assert "warning: " in err
    refused = call(capfd, "eval", run, "--memory", "mbpa", "--tuned", run / "memory/sweep.json")
    assert_refused(refused, "holds no settings of MbPA")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["eval", "--memory", ""], "--memory is ''; expected one or more of"),
        (["eval", "--memory", "cash"], "--memory is 'cash'; expected one or more of"),
        (["eval", "--tuned", "t.json"], "--tuned t.json holds settings of memories: say which with --memory"),
        (["eval", "--memory", "cache", "--tuned", "t.json"], "t.json: there is no such file"),
        (["sweep", "memory", "--first", "100000"], "Lower --first"),
        (["sweep", "memory", "--data", "nowhere"], "there is no such folder"),
    ],
)
def test_refused(flags, said, run, capfd):
    command = flags[:2] if flags[0] == "sweep" else flags[:1]
    assert_refused(call(capfd, *command, run, *flags[len(command) :]), said)
    assert not (run / "memory/sweep.json").exists()


def test_help_has_examples(capfd):
    for command in (["eval"], ["sweep"]):
        code, out, _ = call(capfd, *command, "--help")
        assert code == 0
        assert f"Example: firstsight {command[0]}" in " ".join(out.split())
    assert call(capfd, "sweep", "nonsense", "run")[0] == 2


def start_slow(run):
    command = [sys.executable, "-c", SLOW, "eval", str(run), "--memory", "cache,mbpa", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=hear)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_goes_on(number, run, trained, tmp_path, capfd, monkeypatch):
    partial = run / "memory/partial-valid.npz"
    process = start_slow(run)
    end = time.monotonic() + 100
    while not partial.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.2))
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (130 if number == signal.SIGINT else -9), err
    assert "Traceback" not in err
    assert partial.exists()
    assert not (run / "result.json").exists() or json.loads((run / "result.json").read_text())["memory"] is None

    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 16)
    monkeypatch.setattr("firstsight.lab.reading.recalled.CHUNK", 16)
    code, out, err = call(capfd, "eval", run, "--memory", "cache,mbpa", "--json")
    assert code == 0, err
    assert "going on after" in err
    undisturbed = read(call(capfd, "eval", copy(trained, tmp_path / "other"), "--memory", "cache,mbpa", "--json"))
    for one, other in zip(json.loads(out)["memory"]["variants"], undisturbed["memory"]["variants"], strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-6), one["name"]
    assert not list((run / "memory").iterdir())
