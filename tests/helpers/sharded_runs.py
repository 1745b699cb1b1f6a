"""Runs of one model, with its head whole and in parts, and what has to be alike in them."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import (
    HebbianShardedSoftmax,
    HebbianSoftmax,
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
