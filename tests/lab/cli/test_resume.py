"""kill -9 at random moments: the run that is resumed ends bit for bit like the one that nobody disturbed."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TIME_FIELDS, run, start

KILLS = 5  # of each case: ten in all
SIZES = ["--embedding=16", "--hidden=24", "--batch=8", "--length=12", "--steps=160"]
SIZES += ["--checkpoint-every=7", "--eval-every=11", "--dropout=0.2"]
CASES = {
    "hebbian": ["--head=hebbian", "--T=50", "--bias", "--layer-norm", "--pass-state", "--accumulate=2"]
    + ["--optimizer=adam", "--decay=cosine", "--warmup=20", "--lr=0.01", "--clip=0.5"],
    "softmax": ["--head=softmax", "--layers=2", "--no-tied", "--pass-state", "--precision=bf16"]
    + ["--optimizer=rmsprop", "--momentum=0.9", "--decay=linear", "--lr=0.003", "--weight-decay=1e-5"],
}


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_somewhere(command: list[object], last: Path, rng: random.Random) -> bool:
    """Start, kill at a random moment, and tell whether that was in the middle of training."""
    before = stamp(last)
    process = start(*command)
    if rng.random() < 0.15:
        time.sleep(rng.uniform(0, 3))  # while it starts, most likely
    else:
        while stamp(last) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.25))
    training = process.poll() is None and stamp(last) != before
    process.kill()
    process.communicate()
    return training


def assert_same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            if name not in TIME_FIELDS:
                assert_same(one[name], other[name], f"{where}: {name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}: {i}")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    """Checkpoints down to the optimizer's and the random state, metrics and result, their times apart."""
    for name in ("last.pt", "best.pt"):
        states = [torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (one, other)]
        assert_same(*states, name)
    texts = [(folder / "metrics.jsonl").read_text() for folder in (one, other)]
    assert_same(*[[json.loads(line) for line in text.splitlines()] for text in texts], "metrics.jsonl")
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["perplexity"] == results[1]["perplexity"]
    assert (one / "vocabulary.json").read_bytes() == (other / "vocabulary.json").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments(case, data, tmp_path):
    seed = int.from_bytes(os.urandom(4))
    print(f"random moments of seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    flags = [*SIZES, *CASES[case]]
    undisturbed = start("train", data, "--out", tmp_path / "undisturbed", *flags)

    folder = tmp_path / "killed"
    command = ["train", data, "--out", folder, *flags, "--resume"]
    hits = sum(kill_somewhere(command, folder / "checkpoints/last.pt", rng) for _ in range(KILLS))
    assert hits >= 2, "too few kills in the middle of training to mean anything: make it longer"
    code, _, err = run(*command)
    assert code == 0, err

    _, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    assert_same_run(folder, tmp_path / "undisturbed")
    assert not list(folder.rglob("*.part"))
