"""A head in parts does what a whole one does, to the last bits of float64. The jobs are in sharded_jobs.py."""

import ast
import copy
import pickle
import time

import pytest
import sharded_jobs as jobs
import torch
import torch._dynamo
import torch.multiprocessing

from firstsight import (
    HebbianShardedSoftmax,
    HebbianSoftmax,
    InputError,
    SampledSoftmax,
    ShardedSoftmax,
    Softmax,
    prepare_ddp,
)
from firstsight.heads.shards.ranks import Ranks

WITHIN = 20  # seconds in which the others of a rank that is lost have to have ended


def run(ranks, folder, names):
    """What each rank raised in each job, "" for nothing."""
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=jobs.work, args=(rank, ranks, str(folder), names)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    return [ast.literal_eval((folder / f"{ranks}-{rank}.txt").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def of_two(folder):
    return run(2, folder, [name for name in jobs.JOBS if name != "resumed"])


@pytest.mark.parametrize("job", [name for name in jobs.JOBS if name != "resumed"])
def test_two_processes_are_as_a_whole_head(of_two, job):
    assert [one.get(job, "not reached: one before it failed") for one in of_two] == ["", ""]


FOUR = [
    "grown-sight",
    "options",
    "newcomers-nobias",
    "states",
    "traffic",
    "refused",
    "drawn",
    "sampled",
    "sampled-sparse",
]


@pytest.fixture(scope="module")
def of_four(of_two, folder):
    return run(4, folder, [*FOUR, "resumed"])


@pytest.mark.parametrize("job", [*FOUR, "resumed"])
def test_four_processes_are_as_a_whole_head(of_four, job):
    assert [one.get(job, "not reached: one before it failed") for one in of_four] == [""] * 4


def test_one_process_goes_on_where_two_were(of_two, folder):
    assert run(1, folder, ["resumed"]) == [{"resumed": ""}]


@pytest.mark.parametrize("how", ["killed", "killed in backward", "barrier", "skips backward"])
def test_a_rank_that_is_lost_ends_the_others_with_a_sentence(how, tmp_path):
    context, ranks = torch.multiprocessing.get_context("fork"), 3
    processes = [context.Process(target=jobs.is_lost, args=(rank, ranks, str(tmp_path), how)) for rank in range(ranks)]
    start = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert time.monotonic() - start < WITHIN + 10
    for rank in range(ranks - 1):
        seconds, text = (tmp_path / f"{rank}.txt").read_text().split("\n", 1)
        assert float(seconds) < WITHIN, text
        assert text.split(":")[0] in ("InputError", "RankLostError"), text
        if how == "skips backward":
            assert "in is the backward pass of a loss on ranks 0 and 1, the write on rank 2" in text
        if how == "killed":
            assert text.startswith("RankLostError: rank 2 ended or was killed, and step 3 of this head"), text


@pytest.mark.parametrize(("make", "whole"), [(ShardedSoftmax, Softmax), (HebbianShardedSoftmax, HebbianSoftmax)])
def test_of_one_process_it_is_the_head_behind_it(make, whole):
    torch.manual_seed(3)
    head = make(4, 7)
    torch.manual_seed(3)
    other = whole(4, 7)
    assert head.state_dict().keys() == other.state_dict().keys()
    for name, value in other.state_dict().items():
        assert torch.equal(head.state_dict()[name], value)
    assert prepare_ddp(torch.nn.Sequential(head)) == []
    head.remove_classes([1])
    head.add_classes(2)
    assert head.num_classes == 8
    assert head.classes.tolist() == list(range(8))
    linear = head.to_linear()
    assert torch.equal(linear.weight, head.weight)


def test_a_part_is_of_use_in_its_own_job_alone():
    head = pickle.loads(pickle.dumps(HebbianShardedSoftmax(4, 7)))
    head.write(torch.ones(1, 4), torch.tensor([2]))
    assert head.counts.tolist() == [1, 1, 2, 1, 1, 1, 1]
    assert copy.deepcopy(head).num_classes == 7
    head._ranks = Ranks(None, (2, 1))
    for call in (head.write, head.loss):
        with pytest.raises(InputError, match="this head is part 1 of 2"):
            call(torch.ones(1, 4), torch.tensor([2]))


@pytest.mark.parametrize("sparse", [False, True])
def test_samples_of_one_process_are_those_of_the_sampled_head(sparse):
    found = []
    for make in (ShardedSoftmax, SampledSoftmax):
        torch.manual_seed(0)
        head = make(5, 60, samples=12, seed=4, sparse=sparse, dtype=torch.float64)
        optimizer = torch.optim.Adagrad(head.parameters(), lr=0.1)
        head.attach(optimizer)
        for step in range(5):
            g = torch.Generator().manual_seed(step)
            h, y = torch.randn(7, 5, generator=g, dtype=torch.float64), torch.randint(60, (7,), generator=g)
            y[step] = -100
            optimizer.zero_grad()
            head.loss(h, y, weight=torch.arange(60) / 60.0).backward()
            optimizer.step()
        found.append(head)
    for name, value in found[1].state_dict().items():
        torch.testing.assert_close(found[0].state_dict()[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 4, "objective": "softmax"}, "objective is 'softmax'"),
        ({"sparse": True}, "give samples too"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 4, "sampler": "often"}, "sampler is 'often'"),
    ],
)
def test_what_samples_cannot_be_is_said(options, said):
    with pytest.raises(InputError, match=said):
        HebbianShardedSoftmax(4, 9, **options)


@pytest.mark.parametrize(("bias", "optimized"), [(True, True), (False, False)])
def test_one_process_saves_and_loads(bias, optimized, tmp_path):
    head = HebbianShardedSoftmax(4, 7, bias=bias)
    optimizer = torch.optim.Adam(head.parameters())
    handle = head.attach(optimizer)
    head.loss(torch.randn(5, 4), torch.arange(5)).backward()
    optimizer.step()
    head.save_shards(tmp_path / "head", optimizer if optimized else None)
    other = HebbianShardedSoftmax(4, 9, bias=bias)
    optimizer_of_other = torch.optim.Adam(other.parameters())
    other.load_shards(tmp_path / "head", optimizer_of_other if optimized else None)
    for name, value in head.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    if optimized:
        for one, its in zip(other.parameters(), head.parameters(), strict=True):
            for name, value in optimizer.state[its].items():
                assert torch.equal(optimizer_of_other.state[one][name], value)
    else:
        with pytest.raises(InputError, match="no state of an optimizer"):
            head.load_shards(tmp_path / "head", optimizer)
    handle.remove()
    if not bias:
        with pytest.raises(InputError, match="has no bias"):
            HebbianShardedSoftmax(4, 7).load_shards(tmp_path / "head")
