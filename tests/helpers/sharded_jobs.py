"""What the ranks of test_sharded.py do. Each job returns tensors, by name; the parent compares them."""

import os
import signal
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import (
    HebbianShardedSoftmax,
    HebbianSoftmax,
    InputError,
    SampledSoftmax,
    ShardedSoftmax,
    Softmax,
    prepare_ddp,
)

STEPS, D, V = 50, 5, 11
EXACT = {"rtol": 1e-9, "atol": 1e-10}


class Model(nn.Module):
    """A body, and the same head whole or in parts."""

    def __init__(self, sharded, rule=None, V=V, bias=True, **options):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, D, dtype=torch.float64)
        options = {"bias": bias, "dtype": torch.float64, **options}
        if rule:
            options |= {"rule": rule, "T": 40, "gamma": 0.1, **options}
        whole = (HebbianSoftmax if rule else Softmax)(D, V, **options)
        if bias:
            nn.init.normal_(whole.bias)
        self.head = whole
        if sharded:
            self.head = (HebbianShardedSoftmax if rule else ShardedSoftmax)(D, V, **options)
            self.head.load_whole_state_dict(whole.state_dict())

    def forward(self, x, y, **options):
        return self.head.loss(torch.tanh(self.body(x)), y, **options)


def tokens(step, rank, V=V):
    """A rank's part of a batch: from 0 to 6 tokens, one of which may not count."""
    g = torch.Generator().manual_seed(1000 * step + 10 * rank)
    n = (3 * step + 5 * rank) % 7
    y = torch.randint(V, (n,), generator=g)
    y[n // 2 : n // 2 + step % 2] = -100
    return torch.randn(n, 4, generator=g, dtype=torch.float64), y


def optimizer_of(model, kind="adam"):
    make = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}[kind]
    return make(model.parameters(), lr=0.02)


def whole_run(
    ranks, steps, rule=None, kind="adam", edit=lambda step, model: None, model=None, optimizer=None, **options
):
    """The reference: every rank's loss in one process, and the mean of them stepped on."""
    model = Model(False, rule, **options) if model is None else model
    if optimizer is None:
        optimizer = optimizer_of(model, kind)
        model.head.attach(optimizer, group=False)  # of this process alone, which has what all have
    losses = []
    for step in steps:
        edit(step, model)
        optimizer.zero_grad()
        given = [tokens(step, rank, model.head.num_classes) for rank in range(ranks)]
        of_each = [model(*one) for one in given]
        torch.stack(of_each).mean().backward()
        optimizer.step()
        losses.append(torch.stack(of_each).detach())
    return model, optimizer, torch.stack(losses)


def sharded_run(
    rank, steps, rule=None, kind="adam", edit=lambda step, model: None, model=None, optimizer=None, **options
):
    """The same in parts, under DDP; ``ranks`` of tokens are shared out over the ranks that there are."""
    model = Model(True, rule, **options) if model is None else model
    if optimizer is None:
        optimizer = optimizer_of(model, kind)
        model.head.attach(optimizer)
    prepare_ddp(model)
    wrapped = DistributedDataParallel(model) if dist.get_world_size() > 1 else model
    losses = []
    for step in steps:
        edit(step, model)
        optimizer.zero_grad()
        loss = wrapped(*tokens(step, rank, model.head.num_classes))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return model, optimizer, torch.stack(losses)


def compare(rank, sharded, whole, of_optimizer=True):
    """Everything of two runs: losses, body, rows, counts, moments, optimizer state, the best classes."""
    (model, optimizer, losses), (other, others, of_each) = sharded, whole
    torch.testing.assert_close(losses, of_each[:, rank], **EXACT)
    torch.testing.assert_close(model.body.state_dict(), other.body.state_dict(), **EXACT)
    torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), **EXACT)
    for name, parameter in model.head.named_parameters() if of_optimizer else ():
        state, theirs = optimizer.state[parameter], others.state[getattr(other.head, name)]
        assert state.keys() == theirs.keys()
        for key, value in state.items():
            expected = theirs[key][model.head.classes] if value.ndim else theirs[key]
            torch.testing.assert_close(value, expected, **EXACT)
    h = torch.randn(2 + rank, D, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    k = 3 + rank
    found, expected = model.head.eval().topk(h, k), other.head.topk(h, k)
    torch.testing.assert_close(found.values, expected.values, **EXACT)
    assert torch.equal(found.indices, expected.indices)
    y = torch.arange(len(h))
    with torch.no_grad():
        torch.testing.assert_close(model.head.nll(h, y), other.head.nll(h, y), **EXACT)
    model.head.train()


def trained(rank, ranks, folder, rule=None, steps=15, **options):
    compare(rank, sharded_run(rank, range(steps), rule, **options), whole_run(ranks, range(steps), rule, **options))


def edits(step, model):
    """Classes that come and go in training."""
    if step in (12, 30):
        model.head.add_classes(3)
        whole = torch.randn(
            model.head.num_classes, D, dtype=torch.float64, generator=torch.Generator().manual_seed(step)
        )
        with torch.no_grad():  # new rows are drawn, by each rank its own
            own = getattr(model.head, "classes", torch.arange(len(whole)))
            new = own >= len(whole) - 3
            model.head.weight[new] = whole[own][new]
    if step in (20, 40):
        model.head.remove_classes([1, 4, 7] if step == 20 else [0, model.head.num_classes - 1])


def grown(rank, ranks, folder, rule=None, **options):
    compare(
        rank,
        sharded_run(rank, range(STEPS), rule, edit=edits, **options),
        whole_run(ranks, range(STEPS), rule, edit=edits, **options),
    )


def options_of_the_loss(rank, ranks, folder):
    """Class weights, smoothing, logit adjustment, half precision; a bias or none."""
    g = torch.Generator().manual_seed(9)
    of_V = torch.rand(V, dtype=torch.float64, generator=g)
    of_V[2] = 0
    for bias in (True, False):
        model, other = Model(True, "paper", bias=bias), Model(False, "paper", bias=bias)
        for counts in (model.head.counts, other.head.counts):
            counts += 1
        for options in (
            {"label_smoothing": 0.1},
            {"weight": of_V},
            {"weight": of_V, "label_smoothing": 0.3},
            {"logit_adjustment": torch.arange(V)},
            {"logit_adjustment": 0.7},
        ):
            model.zero_grad()
            other.zero_grad()
            x, y = tokens(4, rank)
            x.requires_grad_()
            loss = model(x, y, **options)
            loss.backward()
            given = [tokens(4, one) for one in range(ranks)]
            given[rank][0].requires_grad_()
            losses = [other(*one, **options) for one in given]
            torch.stack(losses).sum().backward()
            torch.testing.assert_close(loss, losses[rank], **EXACT)
            torch.testing.assert_close(x.grad, given[rank][0].grad, **EXACT)
            for name, parameter in model.head.named_parameters():
                expected = getattr(other.head, name).grad[model.head.classes] / ranks
                torch.testing.assert_close(parameter.grad, expected, **EXACT)


def half_precision(rank, ranks, folder):
    torch.manual_seed(0)
    whole = Softmax(64, 300, compute_dtype=torch.bfloat16)
    head = ShardedSoftmax(64, 300, compute_dtype=torch.bfloat16)
    head.load_whole_state_dict(whole.state_dict())
    h, y = torch.randn(ranks, 20, 64), torch.randint(300, (ranks, 20))
    own = h[rank].clone().requires_grad_()
    every = h.clone().requires_grad_()
    loss, nll = head.loss_and_nll(own, y[rank])
    loss.backward()
    expected = torch.stack([whole.loss(*one) for one in zip(every, y, strict=True)])
    expected.sum().backward()
    torch.testing.assert_close(loss, expected[rank], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(nll.mean(), loss.detach())
    torch.testing.assert_close(own.grad, every.grad[rank], rtol=0.02, atol=1e-4)
    torch.testing.assert_close(head.weight.grad, whole.weight.grad[head.classes] / ranks, rtol=0.02, atol=1e-4)


def accumulated(rank, ranks, folder, rule="centered"):
    """Two losses a step, of which the first is never stepped on once."""
    made = [Model(sharded, rule) for sharded in (True, False)]
    optimizers = [optimizer_of(model, "sgd") for model in made]
    model, other = made
    model.head.attach(optimizers[0])
    other.head.attach(optimizers[1], group=False)
    for step in range(10):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for micro in (step, step + 100):
            model(*tokens(micro, rank)).backward()
            torch.stack([other(*tokens(micro, one)) for one in range(ranks)]).mean().backward()
        if step == 5:  # zeroed, and so never written
            for optimizer in optimizers:
                optimizer.zero_grad()
            continue
        for parameter in model.body.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), **EXACT)


def overflow(rank, ranks, folder):
    """A step that one rank skips is written on none."""
    model = Model(True, "centered")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    model.head.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    found = []
    for step in (1, 2):
        optimizer.zero_grad()
        scaler.scale(model(*tokens(step, rank))).backward()
        if (step, rank) == (1, 1):
            model.body.weight.grad[:] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        found.append({name: value.clone() for name, value in model.head.whole_state_dict().items()})
    seen = torch.cat([tokens(2, one)[1] for one in range(ranks)])
    assert (found[0]["counts"] == 1).all()
    assert not found[0]["moments"].any()
    assert torch.equal(found[1]["counts"], 1 + torch.bincount(seen[seen >= 0], minlength=V))


def newcomers(rank, ranks, folder, bias=True, cap=None, training=False):
    """A trained head that is shown its data, and gets new classes: by ``write``, and in training."""
    run = {"rule": "sight", "bias": bias, "cap": cap}
    model, optimizer, _ = sharded_run(rank, range(32), **run)
    other, others, _ = whole_run(ranks, range(32), **run)
    if not training:
        model.head._detach(next(iter(model.head._attached)))
        other.head._detach(next(iter(other.head._attached)))
    for one in (model, other):
        one.head.add_classes(4)
    new = torch.randn(V + 4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.head.weight[model.head.classes >= V] = new[model.head.classes[model.head.classes >= V]]
        other.head.weight[V:] = new[V:]
    for step in range(4):
        given = [shown(step, one) for one in range(ranks)]
        h, y = (torch.cat(part) for part in zip(*given, strict=True))
        if training:
            optimizer.zero_grad()
            others.zero_grad()
            model.head.loss(*given[rank]).backward()
            torch.stack([other.head.loss(*one) for one in given]).mean().backward()
            optimizer.step()
            others.step()
        else:
            model.head.write(*given[rank])
            other.head.write(h, y)
    torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), rtol=1e-6, atol=1e-6)
    state = model.head.whole_state_dict()
    assert training or (state["fresh"][V:] == 2).all(), "or nothing was tested"


def shown(step, rank):
    g = torch.Generator().manual_seed(50 * step + rank)
    n = 2 + (step + rank) % 3
    return torch.randn(n, D, dtype=torch.float64, generator=g), V + torch.randint(4, (n,), generator=g)


def looked_at(rank, ranks, folder):
    """A layer that was taken over, and is shown what it was trained on."""
    model, other = Model(True, "sight"), Model(False, "sight")
    for how in ({"counts": torch.arange(V)}, {"counts": "trained", "new": [3]}):
        for one in (model, other):
            one.head.set_counts(**how)
        torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), rtol=0, atol=0)
        taken = HebbianShardedSoftmax.from_linear(other.head.to_linear(), T=40, gamma=0.1, **how)
        torch.testing.assert_close(taken.whole_state_dict(), dict(other.head.state_dict()), rtol=0, atol=0)
    plain = ShardedSoftmax.from_linear(other.head.to_linear())
    torch.testing.assert_close(plain.whole_state_dict(), dict(other.head.to_linear().state_dict()), rtol=0, atol=0)
    model.head.start_bias(torch.arange(V))
    other.head.start_bias(torch.arange(V))
    with model.head.looking(), torch.no_grad():
        for step in range(20):
            model(*tokens(step, rank))
    with other.head.looking(group=False), torch.no_grad():
        for step in range(20):
            for one in range(ranks):
                other(*tokens(step, one))
    torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), **EXACT)
    model.head.remove_classes([2, 3])
    other.head.remove_classes([2, 3])
    torch.testing.assert_close(model.head.whole_state_dict(), dict(other.head.state_dict()), rtol=1e-6, atol=1e-7)


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


def drawn_apart(rank, ranks, folder):
    """Rows differ from rank to rank, and generators go on alike."""
    torch.manual_seed(5)
    head = ShardedSoftmax(D, 3 * ranks)
    head.add_classes(1)
    state = head.whole_state_dict()["weight"]
    assert len(state.unique(dim=0)) == len(state) == 3 * ranks + 1
    after = torch.rand(1)
    of_all = [torch.empty(1) for _ in range(ranks)]
    dist.all_gather(of_all, after)
    assert len({float(x) for x in of_all}) == 1


def sampled(rank, ranks, folder, sparse=False, rule=None):
    """Each rank's sample of its own classes: the loss and the gradients that the formula gives for all of them."""
    options = {"samples": 6, "sampler": "uniform" if sparse else "log_uniform", "sparse": sparse, "seed": 3}
    head = (HebbianShardedSoftmax if rule else ShardedSoftmax)(D, V, dtype=torch.float64, **options)
    nn.init.normal_(head.bias)
    optimizer = torch.optim.Adagrad(head.parameters(), lr=0.1)
    head.attach(optimizer)
    for step in range(4):
        g = torch.Generator().manual_seed(step)
        sizes = (3, 0, 4, 1)[:ranks]
        given = [
            (torch.randn(n, D, generator=g, dtype=torch.float64), torch.randint(V, (n,), generator=g)) for n in sizes
        ]
        state, own = head.whole_state_dict(), [given[rank][0].requires_grad_(), given[rank][1]]
        sample, log_V = sample_of_all(head)
        w, b = (state[name].clone().requires_grad_() for name in ("weight", "bias"))
        losses = [formula(h, y, w, b, sample, log_V) for h, y in given]
        torch.stack(losses).sum().backward()
        expected, given[rank][0].grad = given[rank][0].grad, None
        optimizer.zero_grad()
        loss = head.loss(*own)
        loss.backward()
        torch.testing.assert_close(loss, losses[rank], **EXACT)
        torch.testing.assert_close(own[0].grad, expected, **EXACT)
        for parameter, whole in ((head.weight, w), (head.bias, b)):
            assert parameter.grad.is_sparse == sparse
            torch.testing.assert_close(parameter.grad.to_dense(), whole.grad[head.classes] / ranks, **EXACT)
        optimizer.step()
    assert int(head.step) == 4
    if rule:
        assert int(head.whole_state_dict()["counts"].sum()) == V + 4 * sum((3, 0, 4, 1)[:ranks])


def sample_of_all(head):
    """The classes [S] that are in the sample of any rank, and log pi [V]."""
    own = torch.zeros(V, dtype=torch.float64)
    own[head.classes] = head._sampling().log_inclusion(torch.arange(len(head.classes)))
    inside = torch.zeros(V, dtype=torch.int64)
    inside[head.sample()] = 1
    dist.all_reduce(own)
    dist.all_reduce(inside)
    return inside.nonzero()[:, 0], own


def formula(h, y, w, b, sample, log_V):
    z = h @ w.t() + b - log_V
    of_all = 0 * z.sum()
    for n in range(len(y)):
        others = [int(s) for s in sample if s != y[n]]
        of_all = of_all + torch.cat([z[n, y[n]][None], z[n, others]]).logsumexp(0) - z[n, y[n]]
    return of_all / max(len(y), 1)


class Sampling(nn.Module):
    """A body and a sampled head that is the same on all."""

    def __init__(self, sparse):
        super().__init__()
        self.body = nn.Linear(4, D, dtype=torch.float64)
        self.head = SampledSoftmax(D, 40, samples=8, sparse=sparse, dtype=torch.float64)

    def forward(self, x, y):
        return self.head.loss(torch.tanh(self.body(x)), y)


def sparse_ddp(rank, ranks, folder):
    """A head with sparse gradients under DDP is as one with dense ones, wherever its rows started."""
    found = []
    for sparse in (True, False):
        torch.manual_seed(rank)  # all start as the first, once they are wrapped
        model = Sampling(sparse)
        assert prepare_ddp(model) == (["head.bias", "head.step", "head.weight"] if sparse else [])
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
        model.head.attach(optimizer)
        for step in range(4):
            g = torch.Generator().manual_seed(10 * step + rank)
            optimizer.zero_grad()
            wrapped(
                torch.randn(3, 4, generator=g, dtype=torch.float64), torch.randint(40, (3,), generator=g)
            ).backward()
            optimizer.step()
        found.append(dict(model.state_dict()))
    torch.testing.assert_close(*found, **EXACT)


RULES = (None, "sight", "centered", "paper")
JOBS = {
    "trained-nobias": lambda *given: trained(*given, rule="sight", bias=False),
    "trained-softmax": lambda *given: trained(*given, rule="centered", objective="softmax"),
    "trained-shrinkage": lambda *given: trained(*given, rule="shrinkage"),
    **{f"grown-{rule}": lambda *given, rule=rule: grown(*given, rule=rule) for rule in RULES},
    "options": options_of_the_loss,
    "half": half_precision,
    "accumulated": accumulated,
    "overflow": overflow,
    "newcomers": newcomers,
    "newcomers-nobias": lambda *given: newcomers(*given, bias=False),
    "newcomers-cap": lambda *given: newcomers(*given, cap=0.2),
    "newcomers-training": lambda *given: newcomers(*given, training=True),
    "looked-at": looked_at,
    "states": states,
    "saved": saved,
    "resumed": resumed,
    "traffic": traffic,
    "refused": refused,
    "wrapped": wrapped_as_alike,
    "sampled": sampled,
    "sparse-ddp": sparse_ddp,
    "sampled-sparse": lambda *given: sampled(*given, sparse=True, rule="sight"),
    "drawn": drawn_apart,
}


def work(rank, ranks, folder, names):
    """Run the jobs one after the other, and leave what each raised; the first that fails ends it: ranks come apart."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{ranks}", rank=rank, world_size=ranks)
    found = {}
    for name in names:
        try:
            JOBS[name](rank, ranks, folder)
            found[name] = ""
        except BaseException:
            found[name] = traceback.format_exc()
            break
    Path(folder, f"{ranks}-{rank}.txt").write_text(repr(found))
    if any(found.values()):
        os._exit(1)
    dist.destroy_process_group()


def is_lost(rank, ranks, folder, how):
    """The last rank is killed, or leaves out a loss, after some steps; what the others find, in how many seconds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    model = Model(True, "centered")
    optimizer = optimizer_of(model)
    model.head.attach(optimizer)
    start = time.monotonic()
    try:
        for step in range(6):
            if step == 3:
                start = time.monotonic()
            last = rank == ranks - 1 and step == 3
            if last and how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if last and how == "barrier":
                dist.barrier()
            optimizer.zero_grad()
            loss = model(*tokens(step, rank))
            if last and how == "killed in backward":
                loss.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
            if not (last and how == "skips backward"):
                loss.backward()
            optimizer.step()
        text = "nothing"
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    Path(folder, f"{rank}.txt").write_text(f"{time.monotonic() - start}\n{text}")
    os._exit(0)
