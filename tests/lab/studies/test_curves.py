"""Learning curves out of run folders, and what they will cost. The figures of them are tested in tests/lab/cli."""

import json

import pytest
from training_runs import TINY

from firstsight.lab.lm.dry_run.pace import step_ratio
from firstsight.lab.studies import cost
from firstsight.lab.studies.curves import make_jobs, summarise_line
from firstsight.lab.system.files import write_json

BAND = {"name": "<100", "tokens": 1, "perplexity": 9.0}
CURVES = {0: [90.0, 70.0, 60.5], 1: [80.0, 75.0, 61.5], 2: [85.0, 71.0, 61.0]}


@pytest.fixture
def jobs(corpus, tmp_path):
    config = TINY.replace(steps=30, eval_every=10)
    return make_jobs({"plain": config}, [0, 1, 2], corpus, "cpu", tmp_path, "test", "valid")


def validate(job, values, **line):
    job.folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for at, value in enumerate(values, start=1):
        shares = {"classes_seen": at / 10, "classes_past_T": at / 100}
        about = {"step": 10 * at, "tokens": 480 * at, "seconds": 2.0 * at, "train_loss": 5.0, "valid_loss": 4.0}
        kept.append(json.dumps({**about, "valid_perplexity": value, **shares, **line}))
    (job.folder / "metrics.jsonl").write_text("\n".join([*kept, ""]))


def finish(job, reason="steps", perplexity=55.0, memory=None):
    write_json(job.folder / "outcome.json", {"reason": reason, "seconds": 7.0})
    if reason == "steps":
        about = {"split": "test", "checkpoint": {"name": "last", "step": 30}, "git_commit": "abc", "machine": "m"}
        write_json(job.folder / "result.json", {**about, "perplexity": perplexity, "bands": [], "memory": memory})


def test_a_line_is_the_mean_of_its_seeds_and_their_range(jobs):
    for job in jobs:
        validate(job, CURVES[job.seed])
        finish(job)
    line = summarise_line(jobs)
    assert line["curve"]["tokens"] == [480, 960, 1440]
    assert line["curve"]["mean"] == [85.0, 72.0, 61.0]
    assert line["curve"]["low"] == [80.0, 70.0, 60.5]
    assert line["curve"]["high"] == [90.0, 75.0, 61.5]
    assert [run["perplexity"] for run in line["runs"].values()] == [60.5, 61.5, 61.0]
    assert [run["test"]["perplexity"] for run in line["runs"].values()] == [55.0] * 3
    assert line["classes"] == {
        "T": 50,
        "tokens": [480, 960, 1440],
        "seen": [0.1, 0.2, 0.3],
        "past_T": [0.01, 0.02, 0.03],
    }
    assert "seed" not in line["settings"]
    assert jobs[1].ended().text == "perplexity 61.50, 7 s"


def test_runs_that_are_not_done_stand_back_behind_those_that_are(jobs):
    assert summarise_line(jobs)["curve"] is None
    validate(jobs[0], CURVES[0][:1])
    validate(jobs[1], CURVES[1][:2])
    line = summarise_line(jobs)
    assert [run["state"] for run in line["runs"].values()] == ["under way", "under way", "waiting"]
    assert line["curve"]["tokens"] == [480]  # where both have a point
    assert line["curve"]["mean"] == [85.0]
    validate(jobs[2], CURVES[2])
    finish(jobs[2])
    line = summarise_line(jobs)
    assert line["curve"]["seeds"] == {"2": [85.0, 71.0, 61.0]}
    assert [job.ended() is None for job in jobs] == [True, True, False]


def test_a_run_that_diverged_is_told_and_not_drawn(jobs):
    validate(jobs[0], [90.0, None])
    finish(jobs[0], reason="diverged")
    for job in jobs[1:]:
        validate(job, CURVES[job.seed])
        finish(job)
    line = summarise_line(jobs)
    assert line["runs"]["0"]["state"] == "diverged"
    assert list(line["curve"]["seeds"]) == ["1", "2"]
    assert jobs[0].ended().text == "diverged, 7 s"
    assert not jobs[0].ended().whole


def test_a_training_that_ended_is_not_done_before_it_is_evaluated(jobs):
    validate(jobs[0], CURVES[0])
    write_json(jobs[0].folder / "outcome.json", {"reason": "steps", "seconds": 7.0})
    assert jobs[0].state == "under way"
    validate(jobs[0], CURVES[0], test_sample={"perplexity": 44.0})
    measured = make_jobs(
        {"plain": jobs[0].config}, [0], _corpus_of(jobs[0]), "cpu", jobs[0].folder.parents[1], "", "test_sample"
    )
    assert measured[0].state == "done"  # where nothing is to be evaluated
    assert list(measured[0].curve().values()) == [44.0] * 3


def _corpus_of(job):
    from firstsight.lab.data import open_corpus

    return open_corpus(job.source)


def test_memories_stand_beside_the_model(jobs):
    mixtures = [
        {"name": "model", "perplexity": 50.0, "bands": [BAND]},
        {"name": "+ cache", "perplexity": 45.0, "bands": [BAND | {"tokens": 2}]},
    ]
    for job in jobs:
        validate(job, CURVES[job.seed])
        finish(job, perplexity=45.0, memory={"variants": mixtures})
    test = summarise_line(jobs)["runs"]["0"]["test"]
    assert (test["perplexity"], test["bands"], test["memories"]) == (50.0, [BAND], {"+ cache": 45.0})


def test_the_cost_is_of_what_is_left(jobs, corpus, monkeypatch):
    asked = []

    def dry_run(corpus, config):
        asked.append(config.seed)
        return {"estimate": {"seconds": 60.0}}

    monkeypatch.setattr(cost, "dry_run", dry_run)
    validate(jobs[0], CURVES[0][:1])  # a third of it is done
    found = cost.estimate(jobs, corpus, workers=2)
    assert asked == [0]  # once a variant
    assert found.seconds == {"plain": 60.0}
    assert found.core_seconds == pytest.approx(160)
    assert found.wall_seconds == pytest.approx(80)
    assert cost.estimate(jobs, corpus, workers=16).wall_seconds == 60.0  # no less than the longest


def test_what_is_begun_tells_the_pace_of_the_others(jobs, corpus, monkeypatch):
    monkeypatch.setattr(cost, "dry_run", None)  # nothing is measured anew
    validate(jobs[0], CURVES[0])
    validate(jobs[1], CURVES[1][:1])
    assert [job.share() for job in jobs] == [1.0, pytest.approx(1 / 3), 0.0]
    found = cost.estimate(jobs[1:], corpus, 1, begun=jobs)
    assert found.seconds == {"plain": pytest.approx(6.0)}  # 2 seconds a third of a run
    assert found.core_seconds == pytest.approx(10.0)


def test_a_longer_step_takes_longer(corpus):
    long = TINY.replace(length=180)
    found = step_ratio(corpus, TINY, long, rounds=5)
    assert found["rounds"] == 5
    assert found["quartile_1"] <= found["median"] <= found["quartile_3"]
    assert found["median"] > 1.2
    assert found["seconds"][1] > found["seconds"][0]
    assert step_ratio(corpus, long, TINY, rounds=5)["median"] < 0.85
