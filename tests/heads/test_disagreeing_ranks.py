"""Processes of a head that do not agree: each says so, in seconds. What they do is in disagreeing_jobs.py."""

import re
import time

import disagreeing_jobs as jobs
import pytest
import torch
import torch.multiprocessing

from firstsight.heads.steps import peers

WITHIN = 10  # seconds in which all ranks have to have ended
WRITE = r"the write of step \d+ of this head"
# What of the last rank's head differs, and how it is told.
DIFFERS = {
    "rule": ("rule is paper", "scaled"),
    "sight": ("rule is paper", "sight"),
    "T": ("T is 500", "1"),
    "gamma": ("gamma is 0.01", "0.5"),
    "objective": ("objective is l2", "softmax"),
    "prior_count": ("prior_count is 10.0", "3.0"),
    "price": ("price is 1.0", "2.0"),
    "num_classes": ("num_classes is 11", "13"),
    "in_features": ("in_features is 5", "8"),
    "dtype": ("dtype is torch.float32", "torch.float64"),
    "bias": ("bias is True", "False"),
    "step": ("step is 2", "3"),
    "sampled": ("T is 500", "1"),
    "seed": ("seed is 0", "1"),
    "adaptive": ("num_classes is 4", "5"),
}


def run(folder, ranks, last, names=(), patient=0.5):
    """What each rank found (None: nothing, it had to end), what each said, and the seconds until all had ended."""
    jobs.train(jobs.full(), 1)  # what the first step imports each fork has then
    context, start = torch.multiprocessing.get_context("fork"), time.monotonic()
    options = str(folder), names, last, patient
    processes = [context.Process(target=jobs.work, args=(rank, ranks, *options)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    took = time.monotonic() - start
    paths = [folder / f"{rank}.pt" for rank in range(ranks)]
    found = [torch.load(path)["last"] if path.exists() else None for path in paths] if not names else paths
    return found, [(folder / f"{rank}.txt").read_text() for rank in range(ranks)], took


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What the heads of 2 and of 4 ranks say, and then those of whom the last leaves a step out."""
    folder = tmp_path_factory.mktemp("ranks")
    paths, said, _ = run(folder, request.param, jobs.leaves_out_a_step, list(jobs.HEADS), patient=peers.PATIENT)
    return [{**torch.load(path), "said": text} for path, text in zip(paths, said, strict=True)]


def first(ranks):
    return f"on ranks {', '.join(map(str, range(ranks - 2)))} and {ranks - 2}" if ranks > 2 else "on rank 0"


@pytest.mark.parametrize("name", jobs.HEADS)
def test_heads_that_differ_are_told_on_every_rank(ranks, name):
    most, last = DIFFERS[name]
    for found in ranks:
        error = found[name]["error"]
        assert f"{most} {first(len(ranks))}, {last} on rank {len(ranks) - 1}" in error
        assert "Make the head with the same settings on every rank" in error
        assert found[name]["kinds"][0] == "InputError"
        assert found[name]["seconds"] < WITHIN
        assert found[name]["as it was"] or name == "adaptive", "whose first cluster is alike, and written by itself"


def test_who_left_a_step_out_is_named(ranks):
    *waited, past = ranks
    for found in waited:
        assert re.match(
            rf"rank {len(waited)} is past {WRITE}, where .* it is in barrier at line", found["last"]["error"]
        )
        assert "optimizer.step() on all of them or on none" in found["last"]["error"]
        assert found["last"]["kinds"][0] == "InputError"
    assert past["said"] == waited[0]["last"]["error"] + "\n", "in a barrier of its own it can but be warned"
    assert past["last"]["kinds"], "which it is not left in"
    assert all(found["last"]["seconds"] < WITHIN for found in ranks)


@pytest.mark.parametrize(
    ("last", "count", "gone"),
    [
        (jobs.leaves_out_a_step_and_ends, 2, 1),
        (jobs.leaves_out_a_step_and_ends, 4, 3),
        (jobs.is_killed, 2, 1),
        (jobs.is_killed, 4, 2),
        (jobs.ends_before_its_first_write, 4, 3),
    ],
)
def test_who_is_gone_is_named(last, count, gone, tmp_path):
    ranks, _, took = run(tmp_path, count, last)
    assert took < WITHIN
    for rank, found in enumerate(ranks):
        if rank != gone:
            how = "left without a word" if last is jobs.ends_before_its_first_write else "ended or was killed"
            assert re.match(rf"rank {gone} {how}, and step \d of this head cannot be written", found["error"])
            assert "start all ranks again" in found["error"]
            assert found["kinds"][:2] == ["RankLostError", "InputError"]


def test_a_head_without_a_write_is_named(tmp_path):
    ranks, said, took = run(tmp_path, 4, jobs.has_no_write)
    assert took < WITHIN
    for found in ranks[:3]:
        assert re.match(
            f"rank 3 is past {WRITE}, where ranks 0, 1 and 2 wait for it: it is in _pre_forward", found["error"]
        )
    assert said[3].startswith("rank 3 is past ")


def test_who_is_at_work_is_waited_for(tmp_path):
    ranks, said, _ = run(tmp_path, 4, jobs.is_at_work)
    assert [found["error"] for found in ranks] == [""] * 4
    assert said == [""] * 4
