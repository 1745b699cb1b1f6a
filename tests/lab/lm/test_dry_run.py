"""The dry run: its account against the tensors of a real step, and that it leaves no trace."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from training_runs import TINY, make_corpus

from firstsight.errors import InputError
from firstsight.lab.lm import training
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run import dry_run, measure
from firstsight.lab.lm.dry_run.account import build, memory, operations, parameters
from firstsight.lab.lm.lstm import num_parameters
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_model

V = 4000
MODEL = Config(embedding=64, hidden=128, batch=16, length=40, bias=True)
KINDS: dict[str, dict[str, Any]] = {
    "hebbian": {},
    "softmax without a bias": {"head": "softmax", "bias": False, "rule": "centered"},
    "bf16": {"precision": "bf16"},
    "wide": {"embedding": 32, "hidden": 512},
    "layer norm": {"layer_norm": True},
    "sampled": {"samples": 1500},
    "adaptive": {"cutoffs": "1000,2000"},
    "in parts, adam": {"accumulate": 4, "optimizer": "adam"},
    "two layers, untied, sgd": {"layers": 2, "tied": False, "optimizer": "sgd"},
    "no projection": {"projection": False, "tied": False, "optimizer": "adagrad", "dropout": 0.0},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A corpus of V types, each of them once."""
    words = [f"w{n}" for n in range(V - 2)]  # and <unk> and <eos>
    return make_corpus(tmp_path_factory.mktemp("words"), [" ".join(words[n : n + 100]) for n in range(0, V, 100)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_account_of_memory_is_that_of_a_step(kind, words):
    config = MODEL.replace(**KINDS[kind])
    model, step = training.rehearse(words, config)
    for _ in range(2):  # the optimizer's state, and what the first step alone makes
        step()
    states = itertools.chain(*(state.values() for state in step.__self__.stepped.state.values()))
    held = [*model.parameters(), *model.buffers(), *(value for value in states if isinstance(value, torch.Tensor))]
    with LiveBytes(held) as live:
        step()
    account = memory(build(len(words.vocabulary), config), config, "cpu")
    assert account["peak"] == pytest.approx(live.peak, rel=0.1), account
    assert account["weights"] == sum(parameter.nbytes for parameter in model.parameters())
    assert account["buffers"] == sum(buffer.nbytes for buffer in model.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_exact(kind):
    config = MODEL.replace(**KINDS[kind])
    found, real = parameters(build(V, config)), build_model(V, config)
    assert found.pop("total") == num_parameters(real) == sum(found.values())
    of_head = sum(n for name, n in found.items() if name.startswith("head"))
    assert of_head == sum(parameter.numel() for parameter in real.head.parameters())
    assert found.get("projection", 0) == (0 if real.projection is None else real.projection.numel())
    assert found.get("embedding", 0) == (0 if config.tied else V * config.embedding)


def test_operations_are_those_of_the_products():
    H, E, S = 128, 64, 1500
    plain = operations(build(V, MODEL))
    assert plain == {
        "lstm": 6 * 8 * H * H,
        "projection": 12 * H * E,
        "head": 6 * V * E,
        "total": sum(plain.values()) // 2,
    }
    assert operations(build(V, MODEL.replace(samples=S)))["head"] == 6 * (S + 1) * E
    assert operations(build(V, MODEL.replace(samples=V)))["head"] == 6 * V * E  # from V on it is the full softmax
    adaptive, counts = build(V, MODEL.replace(cutoffs="1000,2000")), np.zeros(V, dtype=int)
    counts[:1000], counts[1000:2000] = 3, 1
    tail = 1000 * (E // 4) + E * (E // 4)
    assert operations(adaptive, counts)["head"] == 6 * (1002 * E + tail // 4)


@pytest.mark.parametrize("accumulate", [8, 1])
def test_the_paper_s_model_fits_a_device_of_80_gb(accumulate):
    config = recipe("paper").replace(precision="bf16", accumulate=accumulate)
    model = build(267_735, config)
    account = memory(model, config, "cuda")
    assert parameters(model)["total"] == 171_691_520
    assert account["weights"] == pytest.approx(4 * 171_691_520, rel=1e-3)
    assert account["optimizer"] == pytest.approx(4 * 171_691_520, rel=1e-3)
    assert 2**30 < account["loss"] < account["peak"] < 80e9


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SHORTEST", 0.1)


def test_nothing_is_written(corpus, tmp_path, monkeypatch, short):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}
    found = dry_run(corpus, TINY.replace(steps=10, eval_every=3), ranks=4)
    assert {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")} == before
    measured, run = found["measured"], found["estimate"]
    assert measured["batch"] == measured["of"] == TINY.batch // 4
    assert measured["tokens_per_second"] == pytest.approx(TINY.batch * TINY.length / 4 / measured["seconds_per_step"])
    assert found["memory"]["cpu"] == memory(build(len(corpus.vocabulary), TINY), TINY.replace(batch=2), "cpu")
    assert run["tokens_per_second"] == 4 * measured["tokens_per_second"]
    assert run["validations"] == 4  # after steps 3, 6, 9, 10
    assert run["training_seconds"] == pytest.approx(10 * measured["seconds_per_step"])
    valid = len(corpus.split("valid"))
    assert run["validation_seconds"] == pytest.approx(valid / measured["valid_tokens_per_second"])
    assert run["sent_bytes_per_step"] == 2 * 3 * 4 * found["parameters"]["total"] // 4


def test_a_step_too_large_for_here_is_tried_with_fewer_sequences(corpus, monkeypatch, short):
    work = operations(build(len(corpus.vocabulary), TINY))["total"] * TINY.length
    monkeypatch.setattr(measure, "_LARGEST", 3.5 * work)
    found = dry_run(corpus, TINY)
    assert found["measured"]["batch"] == 3
    assert found["estimate"]["tokens"] == TINY.steps * TINY.batch * TINY.length


def test_what_cannot_be_is_refused(corpus, monkeypatch):
    with pytest.raises(InputError, match=r"ranks is 9; expected 1 to the sequences of a batch, 8"):
        dry_run(corpus, TINY, ranks=9)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"several processes.*without torchrun"):
        dry_run(corpus, TINY)
