"""Training in several processes is that of one: gloo ranks, in float64."""

import pytest
import torch
from ranks import float64, fork, train_all
from training_runs import TINY, lasting_metrics

from firstsight.lab.runs.checkpoint import load_checkpoint

BASE = TINY.replace(steps=50, eval_every=20, checkpoint_every=25)
# Every kind of head is here, and every way in which a step can be cut.
KINDS = {
    "softmax": BASE.replace(head="softmax", accumulate=4),
    "softmax, untied, state passed on": BASE.replace(head="softmax", tied=False, pass_state=True, bias=True),
    "hebbian": BASE.replace(accumulate=2, bias=True, bias_start="unigram"),
    "hebbian, the paper's rule": BASE.replace(rule="paper", T=30, gamma=0.05, write_after=3),
    "hebbian, the embedding spared": BASE.replace(write_embedding=False, layer_norm=True),
    "sampled": BASE.replace(head="softmax", samples=12),
    "sampled, hebbian": BASE.replace(samples=12, sampler="uniform", pass_state=True),
    "an odd batch": BASE.replace(batch=7, accumulate=7),
}
DRAWN = BASE.replace(dropout=0.5, lr=1e-9, steps=2)


def almost(one, other):
    return torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with float64():
        train_all(corpus, [(folder / kind, config, False) for kind, config in KINDS.items()])
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def several(request, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"of{request.param}")
    jobs = [(folder / kind, config, False) for kind, config in KINDS.items()]
    ends = fork(request.param, train_all, corpus, jobs)
    assert ends == [["steps"] * len(KINDS)] * request.param
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_equal_one_process(kind, alone, several):
    one, ours = (load_checkpoint(folder / kind / "checkpoints/last.pt") for folder in (alone, several))
    assert one["model"]["head.weight"].dtype == torch.float64
    assert list(one["model"]) == list(ours["model"])
    for name, value in one["model"].items():
        almost(ours["model"][name], value) if value.is_floating_point() else assert_same(ours["model"][name], value)
    almost(ours["optimizer"], one["optimizer"])
    almost(ours["trainer"]["lstm"], one["trainer"]["lstm"])
    assert (one["trainer"]["lstm"] is not None) == KINDS[kind].pass_state
    assert_same(ours["trainer"]["sights"]["seen"], one["trainer"]["sights"]["seen"])
    assert sorted(path.name for path in (several / kind).rglob("*")) == sorted(
        path.name for path in (alone / kind).rglob("*")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_of_the_whole_batch(kind, alone, several):
    one, ours = lasting_metrics(alone / kind), lasting_metrics(several / kind)
    assert len(one) == 3
    for expected, found in zip(one, ours, strict=True):
        assert list(found) == list(expected)
        for name, value in expected.items():
            if name != "sights":
                assert found[name] == pytest.approx(value, rel=1e-6), name
        assert [(b["seen"], b["tokens"]) for b in found["sights"]] == [(b["seen"], b["tokens"]) for b in value]
        assert [b["nll"] for b in found["sights"]] == pytest.approx([b["nll"] for b in value], rel=1e-6)


def assert_same(one, other):
    assert torch.equal(one, other)
