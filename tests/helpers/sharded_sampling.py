"""Jobs of test_sharded.py: heads that learn from samples, and from sparse gradients."""

import torch
import torch.distributed as dist
from sharded_runs import EXACT, D, V
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import (
    HebbianShardedSoftmax,
    SampledSoftmax,
    ShardedSoftmax,
    prepare_ddp,
)


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
