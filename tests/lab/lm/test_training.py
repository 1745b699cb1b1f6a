"""The loop: how it steps, and what it writes down."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import TINY, assert_equal, lasting_metrics, metrics, weights

from firstsight.lab.data import Corpus
from firstsight.lab.lm import training
from firstsight.lab.lm.batches import Batches
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import train

FIELDS = ["step", "tokens", "seconds", "train_loss", "valid_loss", "valid_perplexity", "valid_streams"]
FIELDS += ["valid_bands", "lr", "tokens_per_second", "classes_seen", "classes_past_T", "sights"]


def test_same_seed_same_run(corpus, tmp_path):
    config = TINY.replace(dropout=0.3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(corpus, tmp_path / name, config.replace(seed=seed))
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    plain = [lasting_metrics(tmp_path / name) for name in "abc"]
    assert plain[0] == plain[1] != plain[2]


@pytest.mark.parametrize("head", ["softmax", "hebbian"])
@pytest.mark.parametrize("pass_state", [False, True])
def test_accumulation_changes_nothing(head, pass_state, corpus, tmp_path):
    config = TINY.replace(head=head, pass_state=pass_state, optimizer="sgd", lr=0.5)
    for parts in (1, 4):
        train(corpus, tmp_path / str(parts), config.replace(accumulate=parts))
    one, four = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name in one:
        assert torch.allclose(one[name].double(), four[name].double(), rtol=0, atol=1e-5), name


@pytest.mark.parametrize("head", ["softmax", "hebbian"])
@pytest.mark.parametrize(("optimizer", "lr"), [("rmsprop", 0.01), ("adam", 0.03), ("adagrad", 0.1), ("sgd", 2.0)])
def test_every_optimizer_learns(optimizer, lr, head, song, tmp_path):
    config = TINY.replace(head=head, optimizer=optimizer, lr=lr, steps=150, eval_every=150)
    found = train(song, tmp_path / "run", config)
    assert found.best_perplexity is not None
    assert found.best_perplexity < 1.5  # of eight words


def states_of(monkeypatch, corpus: Corpus, out: Path, config: Config) -> list[tuple[Any, Any]]:
    """The state that each training pass was given, and the one it gave."""
    seen = []
    forward = LanguageModel.forward

    def spy(self, tokens_BS, state=None):
        hidden_BSD, after = forward(self, tokens_BS, state)
        if self.training:
            seen.append((state, after))
        return hidden_BSD, after

    monkeypatch.setattr(LanguageModel, "forward", spy)
    train(corpus, out, config)
    return seen


def test_the_state_is_passed_on(monkeypatch, corpus, tmp_path):
    tokens = len(corpus.split("train"))
    per_epoch = tokens // TINY.batch // TINY.length
    config = TINY.replace(pass_state=True, accumulate=2, steps=per_epoch + 3, eval_every=5)
    seen = states_of(monkeypatch, corpus, tmp_path / "run", config)
    assert len(seen) == 2 * config.steps
    for i, (given_, _) in enumerate(seen):
        if i // 2 % per_epoch == 0:  # a new epoch begins at another place of the text
            assert given_ is None
        else:
            for passed, left in zip(given_, seen[i - 2][1], strict=True):
                assert torch.equal(passed, left)
                assert not passed.requires_grad


def test_the_state_is_not_passed_on_by_default(monkeypatch, corpus, tmp_path):
    seen = states_of(monkeypatch, corpus, tmp_path / "run", TINY)
    assert [given_ for given_, _ in seen] == [None] * TINY.steps


def test_bf16(corpus, tmp_path):
    for precision in ("fp32", "bf16"):
        train(corpus, tmp_path / precision, TINY.replace(precision=precision, steps=30, eval_every=30))
    assert all(
        value.dtype in (torch.float32, torch.int64, torch.uint8) for value in weights(tmp_path / "bf16").values()
    )
    losses = [metrics(tmp_path / precision)[-1]["valid_loss"] for precision in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_gradients_are_clipped(monkeypatch, corpus, tmp_path):
    moved = {}
    for clip in (0.0, 1e-3):
        torch.manual_seed(0)
        config = TINY.replace(head="softmax", optimizer="sgd", lr=1.0, clip=clip, steps=1)
        train(corpus, tmp_path / str(clip), config)
        torch.manual_seed(config.seed)
        start = training.build_model(len(corpus.vocabulary), config).state_dict()
        end = weights(tmp_path / str(clip))
        moved[clip] = math.sqrt(sum(float((end[name] - start[name]).double().square().sum()) for name in end))
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0.0] > 0.1


def test_metrics(corpus, tmp_path):
    config = TINY.replace(steps=10, decay="linear", lr=0.02, T=20)
    found = train(corpus, tmp_path / "run", config)
    lines = metrics(tmp_path / "run")
    assert [list(line) for line in lines] == [FIELDS] * 3
    assert [line["step"] for line in lines] == [4, 8, 10]
    batches = Batches(corpus.split("train"), config.batch, config.length, 1)
    counts = np.ones(len(corpus.vocabulary), dtype=np.int64)  # c starts at 1
    for line, first in zip(lines, (0, 4, 8), strict=True):
        for step in range(first, line["step"]):
            np.add.at(counts, batches(step)[1].numpy().flatten(), 1)
        assert line["tokens"] == line["step"] * 48
        assert line["lr"] == config.rate_at(line["step"] - 1)
        assert line["classes_seen"] == pytest.approx((counts > 1).mean())
        assert line["classes_past_T"] == pytest.approx((counts >= config.T).mean())
        assert line["valid_perplexity"] == pytest.approx(math.exp(line["valid_loss"]))
        assert sum(band["tokens"] for band in line["valid_bands"]) == len(corpus.split("valid"))
        assert line["tokens_per_second"] > 0
        since = line["step"] - first
        assert sum(bucket["tokens"] for bucket in line["sights"]) == since * 48
        mean = sum(bucket["tokens"] * bucket["nll"] for bucket in line["sights"]) / (since * 48)
        assert mean == pytest.approx(line["train_loss"], rel=1e-5)
    assert 0 < lines[-1]["classes_past_T"] < lines[-1]["classes_seen"]
    assert counts.tolist() == weights(tmp_path / "run")["head.counts"].tolist()
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    best = min(lines, key=lambda line: line["valid_loss"])
    assert found.best_perplexity == pytest.approx(best["valid_perplexity"])
    assert (found.step, found.tokens, found.reason) == (10, 480, "steps")
    assert open_run(tmp_path / "run").step == best["step"]


def test_train_loss_is_the_mean_since_the_line_before(corpus, tmp_path):
    for name, every in (("each", 1), ("fourth", 4)):
        train(corpus, tmp_path / name, TINY.replace(eval_every=every))
    each = [line["train_loss"] for line in metrics(tmp_path / "each")]
    fourth = [line["train_loss"] for line in metrics(tmp_path / "fourth")]
    assert fourth == pytest.approx([np.mean(each[:4]), np.mean(each[4:])])


@pytest.mark.parametrize(("every", "expected"), [(0, [8]), (3, [3, 6, 8])])
def test_checkpoints_by_steps(every, expected, corpus, tmp_path, monkeypatch):
    saved = []
    save = training.save_checkpoint

    def spy(path, state):
        save(path, state)
        saved.append((path.name, state["step"]))

    monkeypatch.setattr(training, "save_checkpoint", spy)
    train(corpus, tmp_path / "run", TINY.replace(checkpoint_every=every))
    assert [step for name, step in saved if name == "last.pt"] == expected


def test_checkpoints_by_minutes(corpus, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(training, "save_checkpoint", lambda path, state: saved.append(path.name))
    train(corpus, tmp_path / "run", TINY.replace(checkpoint_every=0, checkpoint_minutes=1e-9))
    assert saved.count("last.pt") == TINY.steps


def test_a_perplexity_past_all_numbers_is_valid_json(corpus, tmp_path):
    train(corpus, tmp_path / "run", TINY.replace(head="softmax", optimizer="sgd", clip=0.0, lr=1e4, steps=2))
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["valid_loss"] > 709
    assert line["valid_perplexity"] is None
