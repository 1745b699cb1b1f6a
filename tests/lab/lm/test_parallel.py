"""Training in several processes is that of one: on gloo ranks, in float64."""

import os
import signal

import pytest
import torch
from ranks import float64, fork, train_all
from torch import nn
from training_runs import TINY, lasting_metrics, metrics

from firstsight.errors import InputError
from firstsight.heads import Softmax
from firstsight.lab.lm import training
from firstsight.lab.lm.batches import Share
from firstsight.lab.lm.training import train
from firstsight.lab.runs.checkpoint import load_checkpoint
from firstsight.lab.runs.head import HEADS
from firstsight.lab.system.ranks import Ranks

BASE = TINY.replace(steps=50, eval_every=20, checkpoint_every=25)
# Every kind of head, and every way in which a step can be cut. The first four are tried on four ranks too.
KINDS = {
    "softmax": BASE.replace(head="softmax", accumulate=8),
    "hebbian": BASE.replace(bias=True, bias_start="unigram", pass_state=True),
    "sampled, hebbian": BASE.replace(samples=12, rule="paper", T=30, gamma=0.05, write_after=3, accumulate=2),
    "adaptive, hebbian": BASE.replace(cutoffs="8,20", pass_state=True),
    "adaptive": BASE.replace(head="softmax", cutoffs="8,20", bias=True),
    "another objective": BASE.replace(objective="softmax", rule="paper", T=30, gamma=0.05, steps=20),
    "sampled": BASE.replace(head="softmax", samples=12, sampler="uniform", tied=False),
    "the embedding spared": BASE.replace(write_embedding=False, layer_norm=True, steps=20),
    "an odd batch": BASE.replace(batch=7, accumulate=7, pass_state=True, steps=20),
    "not reached by all": BASE.replace(head="softmax", optimizer="sgd", lr=0.1, batch=4, length=2, steps=20),
}
CASES = [(kind, ranks) for ranks in (2, 4) for kind in list(KINDS)[: None if ranks == 2 else 4]]


class Parted(Softmax):
    """A head with a parameter that a rare class alone has a use for."""

    def __init__(self, width, num_classes, bias):
        super().__init__(width, num_classes, bias)
        self.tail = nn.Parameter(torch.zeros(width))

    def loss_and_nll(self, hidden, target):
        loss, nll = super().loss_and_nll(hidden, target)
        return (loss + (hidden[target == 12] @ self.tail).sum() / target.numel() if 12 in target else loss), nll


@pytest.fixture(scope="module", autouse=True)
def parted_head():
    usual = HEADS["softmax"]

    def make(settings, width, num_classes, record):
        parted = settings.length == KINDS["not reached by all"].length
        return Parted(width, num_classes, settings.bias) if parted else usual(settings, width, num_classes, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEADS, "softmax", make)
        yield


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """By the number of ranks the folder of the runs of each kind."""
    folders = {ranks: tmp_path_factory.mktemp(f"of{ranks}") for ranks in (1, 2, 4)}
    for ranks, folder in folders.items():
        jobs = [
            (folder / kind, config, False) for kind, config in KINDS.items() if ranks == 1 or (kind, ranks) in CASES
        ]
        if ranks == 1:
            with float64():
                train_all(corpus, jobs)
        else:
            assert fork(ranks, train_all, corpus, jobs) == [["steps"] * len(jobs)] * ranks
    return folders


def last(folder):
    return load_checkpoint(folder / "checkpoints/last.pt")


def almost_equal(found, expected):
    """A whole checkpoint: numbers to 1e-6, counts and all that is whole to the last one."""
    if isinstance(expected, torch.Tensor) and not expected.is_floating_point():
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            if name not in ("rng", "seconds"):
                almost_equal(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            almost_equal(one, other)
    elif isinstance(expected, (torch.Tensor, float)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, equal_nan=True)
    else:
        assert found == expected


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_ranks_equal_one_process(kind, ranks, runs):
    one, ours = runs[1] / kind, runs[ranks] / kind
    assert torch.float64 in {value.dtype for value in last(one)["model"].values()}
    almost_equal(last(ours), last(one))
    almost_equal(lasting_metrics(ours), lasting_metrics(one))
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, ours)]
    assert names[0] == names[1]


def test_a_parameter_that_one_rank_does_not_reach_is_trained(runs):
    assert last(runs[2] / "not reached by all")["model"]["head.tail"].any()


def test_a_run_goes_on_with_another_number_of_ranks(corpus, runs, tmp_path):
    """25 steps on two, 10 on three, the rest on one: the straight run of one."""
    config = KINDS["hebbian"]
    assert config.pass_state
    fork(2, train_all, corpus, [(tmp_path / "run", config.replace(steps=25), False)])
    fork(3, train_all, corpus, [(tmp_path / "run", config.replace(steps=35), True)])
    with float64():
        train(corpus, tmp_path / "run", config, resume=True)
    almost_equal(last(tmp_path / "run")["model"], last(runs[1] / "hebbian")["model"])
    almost_equal(last(tmp_path / "run")["trainer"]["lstm"], last(runs[1] / "hebbian")["trainer"]["lstm"])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [20, 25, 35, 40, 50]


def what_ranks_do_alike(corpus, folder):
    """The scenes of the tests below, in one job: what this rank saw of each."""
    rank, found, usual = int(os.environ["RANK"]), {}, training._Trainer._train_step
    masks = []

    def keep(dropout, inputs, output):
        if dropout.training:
            masks.append(output == 0)

    def spy(self):
        if not self.state.step:
            self.bare.dropout.register_forward_hook(keep)
        return usual(self)

    training._Trainer._train_step = spy
    dropped = BASE.replace(dropout=0.5, steps=3)
    train(corpus, folder / "dropped", dropped)
    found["masks"] = masks
    training._Trainer._train_step = usual
    train(corpus, folder / "resumed", dropped.replace(steps=2))
    train(corpus, folder / "resumed", dropped, resume=True)

    def signalled(self):
        if self.state.step == 4 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(self)

    training._Trainer._train_step = signalled
    found["signal"] = vars(train(corpus, folder / "signalled", BASE))
    training._Trainer._train_step = usual

    def raised(name, config, out=None):
        with pytest.raises(InputError) as error:
            train(corpus, out or folder / name, config)
        found[name] = type(error.value).__name__, error.value.exit_code, str(error.value)

    raised("diverged", BASE.replace(optimizer="sgd", clip=0.0, lr=1e38))
    raised("others", BASE.replace(steps=50 + rank))
    raised("many", BASE.replace(batch=1))
    raised("one", BASE, folder / ("dropped" if rank else "new"))
    train(corpus, folder / "after", BASE.replace(steps=1))  # they are in step after all that
    return found


@pytest.fixture(scope="module")
def seen(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alike")
    return folder, fork(2, what_ranks_do_alike, corpus, folder)


def test_no_two_ranks_drop_the_same(seen):
    masks = [mask for rank in seen[1] for mask in rank["masks"]]
    assert len(masks) == 6
    for i, mask in enumerate(masks):
        assert 0.3 < mask.double().mean() < 0.7
        assert not any(torch.equal(mask, other) for other in masks[:i])


def test_with_as_many_ranks_a_resumed_run_drops_what_it_would_have(seen):
    folder, _ = seen
    straight, resumed = last(folder / "dropped")["model"], last(folder / "resumed")["model"]
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_signal_to_one_rank_ends_all_after_the_same_step(seen):
    folder, found = seen
    for rank in found:
        assert (rank["signal"]["step"], rank["signal"]["reason"]) == (5, "SIGTERM")
    assert last(folder / "signalled")["step"] == 5


def test_what_fails_on_one_rank_fails_on_all(seen):
    folder, (first, second) = seen
    assert first["diverged"][:2] == second["diverged"][:2] == ("DivergedError", 1)
    assert first["others"] == second["others"]
    assert "ranks differ in their settings" in first["others"][2]
    assert "batch is 1, of all processes together, and there are 2" in first["many"][2]
    assert first["one"] == ("InputError", 2, f"rank 1: {second['one'][2]}")
    assert "dropped holds a run already" in second["one"][2]
    assert not [name for name in ("others", "many", "new") if (folder / name).exists()]
    assert (folder / "after/checkpoints/last.pt").exists()


@pytest.mark.parametrize(
    ("ranks", "parts"), [(1, [[1] * 8]), (2, [[1] * 4] * 2), (8, [[1]] * 8), (3, [[1, 1], [1, 1, 1], [1, 1, 1]])]
)
def test_accumulate_is_of_all_ranks_together(ranks, parts):
    shares = [Share(8, 8, Ranks(rank, ranks)) for rank in range(ranks)]
    assert [[part.stop - part.start for part in share.parts] for share in shares] == parts
    assert torch.equal(torch.cat([torch.arange(8)[share.rows] for share in shares]), torch.arange(8))
    assert sum(1 / share.weight(part) for share in shares for part in share.parts) == pytest.approx(ranks)
