"""Jobs of test_sharded.py: training, and rows that come, go and are written."""

import torch
import torch.distributed as dist
from sharded_runs import EXACT, STEPS, D, Model, V, compare, edits, optimizer_of, sharded_run, tokens, whole_run
from torch.nn.parallel import DistributedDataParallel

from firstsight import (
    HebbianShardedSoftmax,
    ShardedSoftmax,
    Softmax,
    clip_grad_norm_,
    prepare_ddp,
)


def trained(rank, ranks, folder, rule=None, steps=15, **options):
    compare(rank, sharded_run(rank, range(steps), rule, **options), whole_run(ranks, range(steps), rule, **options))


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


def clipped(rank, ranks, folder):
    """The norm is that of all rows, the same on each process, so that bodies stay the same too."""
    sharded, whole = Model(True, "centered"), Model(False, "centered")
    prepare_ddp(sharded)
    wrapped = DistributedDataParallel(sharded)
    pairs = [(model, optimizer_of(model)) for model in (sharded, whole)]
    sharded.head.attach(pairs[0][1])
    whole.head.attach(pairs[1][1], group=False)
    for step in range(6):
        for _, optimizer in pairs:
            optimizer.zero_grad()
        wrapped(*tokens(step, rank)).backward()
        torch.stack([whole(*tokens(step, other)) for other in range(ranks)]).mean().backward()
        norms = [clip_grad_norm_(model.parameters(), 0.05) for model, _ in pairs]
        torch.testing.assert_close(*norms, **EXACT)
        assert norms[0] > 0.05
        for _, optimizer in pairs:
            optimizer.step()
    torch.testing.assert_close(sharded.body.state_dict(), whole.body.state_dict(), **EXACT)
    torch.testing.assert_close(sharded.head.whole_state_dict(), dict(whole.head.state_dict()), **EXACT)
