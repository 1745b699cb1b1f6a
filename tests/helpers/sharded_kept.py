"""Jobs of test_sharded.py: what is saved, sent and refused."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from sharded_runs import STEPS, D, Model, V, compare, edits, optimizer_of, sharded_run, tokens, whole_run
from torch.nn.parallel import DistributedDataParallel

from firstsight import (
    HebbianShardedSoftmax,
    HebbianSoftmax,
    InputError,
    ShardedSoftmax,
)
from firstsight.serving import RowIndex


def states(rank, ranks, folder):
    """What is saved and loaded on the same processes, after classes came and went."""
    model, _, _ = sharded_run(rank, range(22), "sight", edit=edits)
    fresh = Model(True, "sight", V=model.head.num_classes).head
    fresh.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(fresh.whole_state_dict(), model.head.whole_state_dict(), rtol=0, atol=0)
    linear = model.head.to_linear()
    torch.testing.assert_close(linear.weight.detach(), model.head.whole_state_dict()["weight"], rtol=0, atol=0)
    whole = HebbianSoftmax(D, model.head.num_classes, dtype=torch.float64).state_dict()
    with pytest.raises(RuntimeError, match="load_whole_state_dict"):
        fresh.load_state_dict(whole)
    other = {**model.head.state_dict(), "part": torch.tensor([(rank + 1) % ranks, ranks, model.head.num_classes])}
    with pytest.raises(RuntimeError, match=f"this one is part {rank} of {ranks}"):
        fresh.load_state_dict(other)


def saved(rank, ranks, folder, rule="sight", kind="adagrad"):
    """The first half of a run, on disk."""
    model, optimizer, _ = sharded_run(rank, range(STEPS // 2), rule, kind, edit=edits)
    model.head.save_shards(f"{folder}/{ranks}", optimizer)
    if rank == 0:
        of_body = {name: optimizer.state[parameter] for name, parameter in model.body.named_parameters()}
        torch.save({"body": model.body.state_dict(), "optimizer": of_body}, f"{folder}/{ranks}/body.pt")
    dist.barrier()


def resumed(rank, ranks, folder, rule="sight", kind="adagrad"):
    """The second half, on any number of processes; the first was on two."""
    model = Model(True, rule, V=20)  # of another size than what was saved
    optimizer = optimizer_of(model, kind)
    model.head.attach(optimizer)
    state = torch.load(f"{folder}/2/body.pt", weights_only=True)
    model.body.load_state_dict(state["body"])
    for name, parameter in model.body.named_parameters():
        optimizer.state[parameter] = state["optimizer"][name]
    model.head.load_shards(f"{folder}/2", optimizer)
    half = STEPS // 2
    sharded = sharded_run(rank, range(half, STEPS), rule, kind, edits, model, optimizer)
    before = whole_run(2, range(half), rule, kind, edits)
    compare(rank, sharded, whole_run(ranks, range(half, STEPS), rule, kind, edits, *before[:2]))
    if rank == 0:
        with pytest.raises(InputError, match="holds no state"):
            ShardedSoftmax(D, V, group=False).load_shards(Path(folder) / "nothing")


def traffic(rank, ranks, folder):
    """Bytes that this rank gives to collectives in a step, by the number of classes."""
    found = {}
    for rule in (None, "sight"):
        for classes in (10_000, 1_000_000):
            head = (HebbianShardedSoftmax if rule else ShardedSoftmax)(D, classes, **({"rule": rule} if rule else {}))
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
            head.attach(optimizer)
            with counted_bytes() as sent:
                h = torch.randn(3 + rank, D, requires_grad=True)
                head.loss(h, torch.arange(3 + rank)).backward()
                optimizer.step()
                head.eval().topk(h, 5)
            found[rule, classes] = sum(sent)
    for rule in (None, "sight"):
        assert found[rule, 10_000] == found[rule, 1_000_000] > 0


@contextmanager
def counted_bytes():
    sent, names = [], ("all_gather", "all_reduce", "reduce_scatter", "all_to_all_single", "all_gather_object")
    original = {name: getattr(dist, name) for name in names}

    def counting(name):
        def call(*args, **options):
            given = args[0] if name == "all_reduce" else args[1]
            given = given if isinstance(given, list) else [given]
            sent.append(sum(one.numel() * one.element_size() for one in given))
            return original[name](*args, **options)

        return call

    try:
        for name in names:
            setattr(dist, name, counting(name))
        yield sent
    finally:
        for name in names:
            setattr(dist, name, original[name])


def refused(rank, ranks, folder):
    """What one rank is given and cannot be is told on all."""
    head = Model(True, "sight").head
    h, y = torch.randn(3, D, dtype=torch.float64), torch.tensor([0, 1, V if rank == 1 else 2])
    bad = h.clone()
    bad[0] = torch.nan if rank == 1 else 0
    said = "the label 11" if rank == 1 else "rank 1 of this head's"
    with pytest.raises(InputError, match=said):
        head.loss(h, y)
    with pytest.raises(InputError, match=said):
        head.write(h, y)
    with pytest.raises(InputError, match="NaN" if rank == 1 else said):
        head.write(bad, y.clamp(max=5))
    assert (head.counts == 1).all()
    other = dist.new_group()
    for wrong in (lambda: head(h), lambda: head.embedding(y), lambda: head.attach(None, group=other)):
        with pytest.raises(InputError, match="sharded head"):
            wrong()
    with pytest.raises(InputError, match="all of those of one process"):
        head.remove_classes(range(0, V, ranks))
    with pytest.raises(InputError, match=r"hidden is torch.float32 on rank 0, torch.float64 on rank"):
        head.nll(h.float() if rank == 0 else h, y.clamp(max=5))
    early = ShardedSoftmax(D, V, group=False)
    early._ranks._early = True
    with pytest.raises(InputError, match="made before"):
        early.nll(h.float(), y.clamp(max=5))
    with pytest.raises(InputError, match="expected one class each"):
        ShardedSoftmax(D, ranks - 1)
    with pytest.raises(InputError, match="below 0"):
        ShardedSoftmax(D, V, ignore_index=0)
    with pytest.raises(InputError, match="create_graph"):
        torch.autograd.grad(head.loss(h.requires_grad_(), y.clamp(max=5)), h, create_graph=True)


def wrapped_as_alike(rank, ranks, folder):
    """DDP that got hold of the rows is found out, in its forward pass and outside of it."""
    for outside in (False, True):
        model = Model(True, V=3 * ranks)
        wrapped = DistributedDataParallel(model)
        with pytest.raises(InputError, match="prepare_ddp"):
            (model if outside else wrapped)(*tokens(1, rank, 3))


def differing(rank, ranks, folder):
    """What processes are not given alike is refused on all, before anything has changed."""
    head = HebbianShardedSoftmax(D, V)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(InputError, match=r"processes differ in what they were given, here add_classes\("):
        head.add_classes(1 + rank)
    with pytest.raises(InputError, match="here remove_classes of 1 classes; expected the same on all"):
        head.remove_classes([5 + rank])
    torch.testing.assert_close(head.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(InputError, match=f"of {V} classes here; expected one that has all"):
        RowIndex(head, torch.randn(3, D))
    state = HebbianShardedSoftmax(D, V, samples=4).whole_state_dict()
    HebbianSoftmax(D, V).load_state_dict(state)
