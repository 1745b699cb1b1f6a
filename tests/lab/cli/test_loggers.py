"""``train --logger``: Fabric's loggers say what ``metrics.jsonl`` says, each step once, whatever was killed when."""

import csv
import time

import pytest
from command import TINY, assert_refused, call, start
from lightning_fabric.loggers import tensorboard

from firstsight.lab.runs.metrics import flat, read_metrics


def lines(run):
    return [flat(line) for line in read_metrics(run / "metrics.jsonl")]


def rows(run):
    with open(run / "logs/csv/metrics.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def events(run):
    """Steps and values of every event in every file, by name, with nothing dropped."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    files = list((run / "logs/tensorboard").iterdir())
    assert len(files) == 1
    read = accumulator.EventAccumulator(str(files[0]), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def assert_same_as_metrics(run):
    expected = lines(run)
    assert rows(run) == expected
    found = events(run)
    assert set(found) == {name for line in expected for name in line} - {"step"}
    for name, pairs in found.items():
        theirs = [(line["step"], line[name]) for line in expected if name in line]
        assert [step for step, _ in pairs] == [step for step, _ in theirs], name
        assert [value for _, value in pairs] == pytest.approx([value for _, value in theirs], rel=1e-6), name


def test_both_say_what_metrics_jsonl_says_and_go_on_without_a_step_twice(data, tmp_path, capfd):
    run = tmp_path / "run"
    assert call(capfd, "train", data, "--out", run, *TINY, "--logger", "csv,tensorboard")[0] == 0
    assert [line["step"] for line in lines(run)] == [10, 20]
    assert {"valid_loss", "valid_perplexity", "valid_perplexity/under_100", "train_loss/seen_0"} <= set(lines(run)[0])
    assert_same_as_metrics(run)
    # A resumed run keeps its loggers unasked.
    assert call(capfd, "train", data, "--out", run, "--resume", "--steps=40")[0] == 0
    assert [line["step"] for line in lines(run)] == [10, 20, 30, 40]
    assert_same_as_metrics(run)


def test_a_logger_of_a_resumed_run_has_the_steps_before_it_too(data, trained, tmp_path, capfd):
    run = tmp_path / "run"
    assert call(capfd, "train", data, "--out", run, *TINY)[0] == 0
    assert not (run / "logs").exists()
    assert call(capfd, "train", data, "--out", run, "--resume", "--steps=30", "--logger", "csv")[0] == 0
    assert [row["step"] for row in rows(run)] == [10, 20, 30]
    assert not (run / "logs/tensorboard").exists()


def test_killed_after_a_checkpoint_nothing_is_lost_or_twice(data, tmp_path, capfd):
    run = tmp_path / "run"
    flags = ["train", data, "--out", run, *TINY[:-3], "--steps=4000", "--eval-every=10", "--checkpoint-every=25"]
    process = start(*flags, "--logger", "csv,tensorboard")
    while not (run / "checkpoints/last.pt").exists() or len(lines(run)) < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.kill()
    process.communicate()
    logged = rows(run)  # on the disk at each validation: of metrics.jsonl at most the last line is missing
    assert logged == lines(run)[: len(logged)]
    assert len(logged) >= len(lines(run)) - 1
    at = logged[-1]["step"]
    found = call(capfd, *flags[:4], "--resume", f"--steps={int(at) + 20}")
    assert found[0] == 0, found[2]
    assert [line["step"] for line in lines(run)] == list(range(10, int(at) + 21, 10))
    assert_same_as_metrics(run)


def test_what_is_refused(data, tmp_path, capfd, monkeypatch):
    run = tmp_path / "run"
    found = call(capfd, "train", data, "--out", run, *TINY, "--logger", "wandb")
    assert_refused(found, "logger is 'wandb'", "csv, tensorboard")
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard, name, False)
    found = call(capfd, "train", data, "--out", run, *TINY, "--logger", "csv,tensorboard")
    assert_refused(found, "the extra tensorboard", "pip install '.[tensorboard]'")
    assert not run.exists()


def test_flat_leaves_out_what_is_no_number(tmp_path):
    line = {
        "step": 5,
        "tokens": 50,
        "train_loss": 2.0,
        "valid_loss": float("inf"),
        "valid_perplexity": None,
        "valid_bands": [
            {"name": ">10K", "tokens": 0, "perplexity": None},
            {"name": "<100", "tokens": 3, "perplexity": 9.0},
        ],
        "sights": [{"seen": 0, "tokens": 2, "nll": 7.0}, {"seen": 4, "tokens": 2, "nll": 3.0}],
        "test_sample": {"documents": 3, "loss": 1.5, "perplexity": None},
    }
    assert flat(line) == {
        "step": 5,
        "tokens": 50,
        "train_loss": 2.0,
        "valid_perplexity/under_100": 9.0,
        "train_loss/seen_0": 7.0,
        "train_loss/seen_4": 3.0,
        "test_sample/documents": 3,
        "test_sample/loss": 1.5,
    }
