"""The write of several processes: that of one process on the joined batch. The jobs are in distributed_jobs.py."""

import distributed_jobs as jobs
import pytest
import torch
import torch.multiprocessing


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """The results of every job on 2 and on 4 gloo ranks: a list, one for each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(jobs.work, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize(
    ("job", "reference"),
    [
        ("ddp", lambda n: jobs.one_process(n)),
        ("ddp_accumulating", lambda n: jobs.one_process(n, micros=2)),
        ("ddp_shrinkage", lambda n: jobs.one_process(n, micros=2, rule="shrinkage")),
        ("ddp_sight", lambda n: jobs.one_process(n, micros=2, rule="sight")),
        ("ddp_adaptive", lambda n: jobs.one_process(n, micros=2, rule="adaptive")),
        ("ddp_sampled", lambda n: jobs.one_process(n, rule="sampled")),
        ("ddp_softmax", lambda n: jobs.one_process(n, micros=2, objective="softmax")),
        ("ddp_centered_softmax", lambda n: jobs.one_process(n, micros=2, rule="centered", objective="softmax")),
        ("ddp_newcomers", lambda n: jobs.newcomers_in_one_process(n)),
        ("last_rank_is_silent", lambda n: jobs.one_process(n - 1)),
        ("last_rank_is_silent_softmax", lambda n: jobs.one_process(n - 1, objective="softmax")),
    ],
)
def test_ranks_equal_one_process_on_the_joined_batch(ranks, job, reference):
    expected = reference(len(ranks))
    counts = [value for name, value in expected.items() if name.endswith("counts")]
    assert all((value > jobs.RULE["T"]).any() for value in counts), (
        "some rows must get past T for this to test anything"
    )
    for rank in ranks:
        torch.testing.assert_close(rank[job], expected, rtol=0, atol=1e-6)
        for name, value in rank[job].items():
            assert torch.equal(value, ranks[0][job][name]), f"{name} must be the same bit for bit on every rank"


@pytest.mark.parametrize("job", ["overflow_on_one_rank", "overflow_on_one_rank_softmax"])
def test_overflow_on_one_rank_skips_the_write_of_all(ranks, job):
    expected = 1 + sum(jobs.counted(jobs.share(2, rank)[1]) for rank in range(len(ranks)))
    for rank in ranks:
        found = rank[job]
        assert (found["after overflow"] == 1).all()
        assert torch.equal(found["after a good step"], expected), "dropped, not deferred"


@pytest.mark.parametrize("job", ["alone", "groups_of_two"])
def test_the_group_says_who_writes_together(ranks, job):
    for rank in ranks:
        assert torch.equal(rank[job]["counts"], rank[job]["expected"])


def test_growth_under_ddp_keeps_the_ranks_equal(ranks):
    for rank in ranks:
        assert rank["growth"]["head.weight"].shape == (jobs.V + 3, jobs.D)
        for name, value in rank["growth"].items():
            assert torch.equal(value, ranks[0]["growth"][name]), name


def test_bytes_exchanged_do_not_grow_with_the_classes(ranks):
    most = max(len(jobs.share(2, rank)[1].unique()) for rank in range(len(ranks)))
    for rank in ranks:
        # a header of seven numbers; of each class its label, its occurrences and its sum
        assert rank["traffic"]["bytes"].tolist() == [8 * (7 + most * (2 + jobs.D))] * 2
