"""``firstsight study`` with processes that train: it goes on after any end, and a bad run stops no other."""

import json
from pathlib import Path

import pytest
import yaml
from command import assert_refused, call, start
from forked import end_when, is_free, start_with, wait_for

import firstsight.lab.lm.training  # noqa: F401 - once, in place of once in every fork
from firstsight.lab.lm.results import evaluate_run

BASE = {"embedding": 8, "hidden": 8, "batch": 4, "length": 10, "lr": 0.01, "dropout": 0.2, "eval_every": 10}


def write_recipe(folder: Path, data: Path, variants: dict, **base) -> Path:
    path = folder / "recipe.yaml"
    values = {"data": {"text": str(data)}, "base": {**BASE, "steps": 20, **base}, "variants": variants}
    path.write_text(yaml.safe_dump({**values, "baseline": next(iter(variants)), "seeds": [0]}, sort_keys=False))
    return path


@pytest.fixture
def forked(monkeypatch):
    start_with(monkeypatch)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_and_ended_it_goes_on_to_the_same_numbers(data, tmp_path, capfd, monkeypatch):
    variants = {"softmax": {"head": "softmax"}, "hebbian": {"head": "hebbian"}}
    recipe, out = write_recipe(tmp_path, data, variants, steps=400, checkpoint_every=5), tmp_path / "out"
    runs = [out / f"runs/text/default/{name}/0" for name in variants]

    process = start("study", recipe, "--out", out, "--workers=2")
    wait_for(lambda: min(lines(run / "metrics.jsonl") for run in runs) > 1, process)
    assert_refused(call(capfd, "study", recipe, "--out", out), "is at work in this folder")
    process.kill()
    process.communicate()
    wait_for(lambda: is_free(out))  # its jobs end by themselves, and save
    for run in runs:
        assert (run / "checkpoints/last.pt").exists()
        assert "SIGTERM: ending after this step" in (run / "log.txt").read_text()

    start_with(monkeypatch)
    before = [lines(run / "metrics.jsonl") for run in runs]
    end_when(lambda: any(lines(run / "metrics.jsonl") > n for run, n in zip(runs, before, strict=True)))
    code, found, err = call(capfd, "study", recipe, "--out", out, "--workers=2", "--json")
    assert code == 143, err
    assert "runs to do: about " in err
    assert is_free(out)
    assert json.loads(found)["interrupted"] == "SIGTERM"
    assert "waiting" in {job["state"] for job in json.loads(found)["jobs"]}

    code, found, err = call(capfd, "study", recipe, "--out", out, "--workers=2", "--json")
    assert code == 0, err
    found = json.loads(found)
    assert found == json.loads((out / "study.json").read_text())
    for run, job in zip(runs, found["jobs"], strict=True):
        assert "resumed at step" in (run / "log.txt").read_text()
        undisturbed = tmp_path / job["variant"]
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in BASE.items()]
        flags += ["--steps=400", f"--head={job['variant']}", "--json"]
        assert job["tokens"] == json.loads(call(capfd, "train", data, "--out", undisturbed, *flags)[1])["tokens"]
        assert job["tokens"] == 400 * 40
        expected = evaluate_run(undisturbed, "valid", checkpoint="last")
        assert (job["perplexity"], job["bands"]) == (expected["perplexity"], expected["bands"])
        metrics = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
        eighth = [one["tokens"] for line in metrics for one in line["sights"] if one["seen"] == 8]
        assert [one["tokens"] for one in job["sights"] if one["seen"] == 8] == [sum(eighth)]
    assert (out / "study.png").exists()


def test_neither_divergence_nor_failure_stops_the_others(data, tmp_path, capfd, forked):
    boom = {"optimizer": "sgd", "lr": 1e30, "clip": 0.0}
    recipe = write_recipe(tmp_path, data, {"boom": boom, "broken": {"T": 7}, "softmax": {"head": "softmax"}})
    out = tmp_path / "out"
    damaged = out / "runs/text/default/broken/0/checkpoints/last.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no checkpoint")
    found = call(capfd, "study", recipe, "--out", out)
    assert_refused(
        found, "1 of the jobs failed", "text default broken seed 0", "but last.pt of a run is beside it", "log.txt"
    )
    jobs = {job["variant"]: job for job in json.loads((out / "study.json").read_text())["jobs"]}
    states = {name: job["state"] for name, job in jobs.items()}
    assert states == {"boom": "diverged", "broken": "failed", "softmax": "done"}
    assert jobs["boom"]["diverged"]
    assert jobs["softmax"]["perplexity"] > 1
    assert "diverged" in (out / "table.md").read_text()

    damaged.unlink()
    logs = {name: (out / f"runs/text/default/{name}/0/log.txt").read_bytes() for name in states}
    code, text, err = call(capfd, "study", recipe, "--out", out)
    assert code == 0, err
    assert "2 of them done already" in err
    assert "3 of 3: text default broken seed 0: perplexity" in err
    assert "| softmax " in text
    unchanged = [name for name in logs if (out / f"runs/text/default/{name}/0/log.txt").read_bytes() == logs[name]]
    assert unchanged == ["boom", "softmax"]  # neither is done again

    recipe = write_recipe(tmp_path, data, {"softmax": {"head": "softmax", "lr": 0.5}})
    assert_refused(call(capfd, "study", recipe, "--out", out), "lr was 0.01, now 0.5")


def test_a_dry_run_lists_and_does_nothing(data, tmp_path, capfd):
    recipe = write_recipe(tmp_path, data, {"a": {"T": 7}, "b": {}})
    code, text, _ = call(capfd, "study", recipe, "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    assert text.splitlines()[:2] == ["text default a: seeds 0: T=7", "text default b: seeds 0: T=100"]
    assert "2 jobs, 2 to run" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--workers=0"], ["--dry-run"]])
def test_refused(flags, tmp_path, data, capfd):
    recipe = write_recipe(tmp_path, data if "--workers=0" in flags else tmp_path / "nowhere", {"a": {}})
    said = "workers is 0" if "--workers=0" in flags else "there is no such folder"
    assert_refused(call(capfd, "study", recipe, "--out", tmp_path / "out", *flags), said)
