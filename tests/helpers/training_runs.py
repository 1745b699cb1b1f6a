"""What the tests of training share: the smallest settings, and ways to look at a run."""

import json
from pathlib import Path
from typing import Any

import torch

from firstsight.lab.data import Corpus, write_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.runs.checkpoint import load_checkpoint

TINY = Config(embedding=12, hidden=12, batch=8, length=6, dropout=0.0, lr=0.01, clip=0.5, T=50, steps=8, eval_every=4)


def make_corpus(folder: Path, lines: list[str]) -> Corpus:
    """Each split reads all of the lines."""
    splits = dict.fromkeys(("train", "valid", "test"), lambda: lines)
    return write_corpus(folder, "text", splits, tokenizer="whitespace", sources=[])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lasting_metrics(folder: Path) -> list[dict[str, Any]]:
    """Without the times, in which no two runs are alike."""
    times = ("seconds", "tokens_per_second")
    return [{name: line[name] for name in line if name not in times} for line in metrics(folder)]


def weights(folder: Path, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / f"checkpoints/{checkpoint}.pt")["model"]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name
