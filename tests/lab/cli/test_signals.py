"""How training ends: signals, limits, and what can be done afterwards."""

import json
import os
import signal
import time

import pytest
from command import TIME_FIELDS, TINY, call, start
from test_resume import assert_same_run

from firstsight.lab.system.interrupt import ending_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends(number, code, data, tmp_path, capfd):
    folder = tmp_path / "run"
    # Far more steps than it will take, and no checkpoint on the way: the one that is found came with the signal.
    flags = [*TINY, "--dropout=0.2", "--pass-state", "--eval-every=5", "--checkpoint-every=0"]
    process = start("train", data, "--out", folder, *flags, "--steps=1000000", "--json")
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_bytes():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert not (folder / "checkpoints/last.pt").exists()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    found = json.loads(out)
    assert (found["reason"], found["result"]) == (number.name, None)
    assert (folder / "checkpoints/last.pt").exists()

    steps = f"--steps={found['step'] + 7}"
    assert call(capfd, "train", data, "--out", folder, "--resume", steps)[0] == 0
    assert call(capfd, "train", data, "--out", tmp_path / "undisturbed", *flags, steps)[0] == 0
    # --steps is a setting like others, but may change: all else in the two folders is equal.
    assert_same_run(folder, tmp_path / "undisturbed")


def test_the_second_interrupt_ends_at_once():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with ending_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == ["SIGINT"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def train(capfd, *arguments) -> dict:
    code, out, err = call(capfd, "train", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_it_ends_after_its_steps(data, tmp_path, capfd):
    found = train(capfd, data, "--out", tmp_path / "run", *TINY, "--steps=13")
    assert (found["reason"], found["step"], found["tokens"]) == ("steps", 13, 13 * 40)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 13]  # the last step is always validated
    assert found["result"]["checkpoint"]["step"] in (10, 13)


def test_it_ends_after_its_minutes(data, tmp_path, capfd):
    found = train(capfd, data, "--out", tmp_path / "run", *TINY, "--steps=1000000", "--minutes=0.005")
    assert found["reason"] == "minutes"
    assert 0.3 <= found["seconds"] < 10
    # Time is counted over all sessions of a run: it has ended, and resuming trains no further.
    again = train(capfd, data, "--out", tmp_path / "run", "--resume")
    assert (again["reason"], again["step"]) == ("minutes", found["step"])


def test_it_ends_when_patience_is_out(data, tmp_path, capfd):
    # A rate so small that no weight changes: the first validation stays the best.
    flags = [*TINY, "--head=softmax", "--lr=1e-30", "--patience=2", "--eval-every=4", "--steps=1000"]
    found = train(capfd, data, "--out", tmp_path / "run", *flags)
    assert (found["reason"], found["step"]) == ("patience", 12)
    assert found["result"]["checkpoint"]["step"] == 4
    again = train(capfd, data, "--out", tmp_path / "run", "--resume")
    assert (again["reason"], again["step"]) == ("patience", 12)
    longer = train(capfd, data, "--out", tmp_path / "run", "--resume", "--patience=4")
    assert (longer["reason"], longer["step"]) == ("patience", 20)


def test_ended_before_the_first_validation_it_can_be_evaluated(data, tmp_path, capfd):
    flags = [*TINY, "--eval-every=1000000", "--steps=1000000", "--minutes=0.001"]
    found = train(capfd, data, "--out", tmp_path / "run", *flags)
    assert found["best_perplexity"] is None
    assert found["result"]["checkpoint"] == {"name": "best", "step": found["step"]}


def test_resuming_what_has_ended_changes_nothing(data, trained, capfd):
    before = {path: path.read_bytes() for path in (trained / "checkpoints").iterdir()}
    metrics = (trained / "metrics.jsonl").read_text()
    found = train(capfd, data, "--out", trained, "--resume")
    assert (found["reason"], found["step"]) == ("steps", 20)
    assert {path: path.read_bytes() for path in (trained / "checkpoints").iterdir()} == before
    assert (trained / "metrics.jsonl").read_text() == metrics
    assert set(TIME_FIELDS) <= set(json.loads(metrics.splitlines()[0]))
