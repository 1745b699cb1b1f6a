"""What the ranks of test_heads_distributed.py do. Each job returns tensors; the parent compares them."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import HebbianAdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax
from firstsight.heads.kept.fresh import SHOWN

STEPS, D, V = 20, 5, 11
RULE = {"T": 6, "gamma": 0.1}
OTHERS = {  # what may stand in place of a rule of the full softmax
    "adaptive": lambda *sizes, **options: HebbianAdaptiveSoftmax(*sizes, cutoffs=(3, 7), div_value=2, **options),
    "sampled": lambda *sizes, **options: HebbianSampledSoftmax(*sizes, samples=6, sampler="uniform", **options),
}


class Model(nn.Module):
    def __init__(self, num_classes=V, rule="paper", objective="l2"):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, D, dtype=torch.float64)
        make, rule = (OTHERS[rule], "paper") if rule in OTHERS else (HebbianSoftmax, rule)
        self.head = make(D, num_classes, dtype=torch.float64, rule=rule, objective=objective, **RULE)

    def forward(self, x, y):
        h = torch.tanh(self.body(x))
        if isinstance(self.head, HebbianSampledSoftmax):  # whose loss alone is of a sample
            return self.head.loss(h, y) * len(y)
        return self.head.nll(h, y).sum()


def share(step, rank, micro=0):
    """A rank's part of a batch: from 0 to 6 tokens, and only rank 0 ever sees the class 10."""
    g = torch.Generator().manual_seed(1000 * step + 10 * rank + micro)
    n = (3 * step + 5 * rank + micro) % 7
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(V - (rank > 0), (n,), generator=g)


def joined(step, ranks, micros=1):
    parts = [share(step, rank, micro) for micro in range(micros) for rank in range(ranks)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def started(num_classes=V, group=None, rule="paper", objective="l2", **options):
    model = Model(num_classes, rule, objective)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, **options)
    model.head.attach(optimizer, group=group)
    return model, optimizer


def result(model, losses=()):
    return {
        **model.state_dict(),
        "losses": torch.tensor([float(loss.detach()) for loss in losses], dtype=torch.float64),
    }


def one_process(ranks, micros=1, steps=STEPS, **settings):
    """The reference: the joined batch in one process."""
    model, optimizer = started(**settings)
    losses = []
    for step in range(steps):
        x, y = joined(step, ranks, micros)
        optimizer.zero_grad()
        loss = model(x, y) / max(1, len(y))
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return result(model, losses)


def ddp(rank, ranks, micros=1, **settings):
    """DDP takes the mean over ranks, so each divides its sum by the tokens of all and multiplies by the ranks."""
    model, optimizer = started(**settings)
    wrapped = DistributedDataParallel(model)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        tokens = max(1, len(joined(step, ranks, micros)[1]))
        losses.append(torch.zeros((), dtype=torch.float64))
        for micro in range(micros):
            wrapped.require_backward_grad_sync = micro == micros - 1  # what no_sync() sets
            loss = wrapped(*share(step, rank, micro)) / tokens
            (loss * ranks).backward()
            losses[-1] += loss.detach()
        optimizer.step()
        dist.all_reduce(losses[-1])
    return result(model, losses)


def ddp_accumulating(rank, ranks):
    return ddp(rank, ranks, micros=2)


def ddp_shrinkage(rank, ranks):
    """A rule with running moments, which travel with the class sums."""
    return ddp(rank, ranks, micros=2, rule="shrinkage")


def ddp_sight(rank, ranks):
    """Rows and activations together, and classes that came to a trained head, whose rows every rank finds by itself."""
    return ddp(rank, ranks, micros=2, rule="sight")


def ddp_adaptive(rank, ranks):
    """Clusters that a rank may have no token of."""
    return ddp(rank, ranks, micros=2, rule="adaptive")


def ddp_sampled(rank, ranks):
    """All ranks draw the same classes."""
    return ddp(rank, ranks, rule="sampled")


def ddp_softmax(rank, ranks):
    """An objective for which each rank looks at its own examples after the step."""
    return ddp(rank, ranks, micros=2, objective="softmax")


def ddp_centered_softmax(rank, ranks):
    """The same with a running mean, of all activations alike."""
    return ddp(rank, ranks, micros=2, rule="centered", objective="softmax")


def ddp_newcomers(rank, ranks):
    """Classes that come to a trained layer: each rank shows it what it has, and all find the same rows and biases."""
    model = trained_before()
    with torch.no_grad(), model.head.looking():
        for step in range(STEPS if rank else STEPS // 2):
            model(*share(step, rank))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.head.attach(optimizer)
    wrapped = DistributedDataParallel(model)
    for step in range(STEPS, STEPS + 3):
        optimizer.zero_grad()
        tokens = max(1, len(joined(step, ranks)[1]))
        (wrapped(*with_newcomers(*share(step, rank))) / tokens * ranks).backward()
        optimizer.step()
    return result(model)


def newcomers_in_one_process(ranks):
    """Its reference."""
    model = trained_before()
    with torch.no_grad(), model.head.looking():
        for step in range(STEPS):
            for rank in range(ranks):
                if rank or step < STEPS // 2:
                    model(*share(step, rank))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.head.attach(optimizer)
    for step in range(STEPS, STEPS + 3):
        optimizer.zero_grad()
        x, y = with_newcomers(*joined(step, ranks))
        (model(x, y) / max(1, len(y))).backward()
        optimizer.step()
    assert (model.head.fresh[V:] == SHOWN).all(), "or nothing was tested"
    return result(model)


def trained_before():
    """A layer that learnt V classes without the write, and got two more."""
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(*joined(step, 4)).backward()
        optimizer.step()
    linear = nn.Linear(D, V + 2, dtype=torch.float64)
    with torch.no_grad():
        linear.weight[:V], linear.bias[:V] = model.head.weight, model.head.bias
    model.head = HebbianSoftmax.from_linear(linear, "trained", new=[V, V + 1])
    return model


def with_newcomers(x, y):
    """Every other class is one of two new ones."""
    return x, torch.where(y % 2 == 0, V + y % 4 // 2, y)


def last_rank_is_silent(rank, ranks, **settings):
    """Gradients summed by hand; the last rank never calls the loss, and yet takes part in each write."""
    model, optimizer = started(**settings)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        tokens = max(1, len(joined(step, ranks - 1)[1]))
        loss = torch.zeros((), dtype=torch.float64)
        if rank < ranks - 1:
            loss = model(*share(step, rank)) / tokens
            loss.backward()
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
        optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        losses.append(loss)
    return result(model, losses)


def last_rank_is_silent_softmax(rank, ranks):
    return last_rank_is_silent(rank, ranks, objective="softmax")


def overflow_on_one_rank(rank, ranks, **settings):
    """Without DDP, so that the gradients of the others stay finite: the verdict must be common all the same."""
    model, optimizer = started(fused=True, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    found = []
    for step in (1, 2):
        optimizer.zero_grad()
        x, y = share(step, rank)
        scaler.scale(model(x, y) * (torch.inf if (step, rank) == (1, 1) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(model.head.counts.clone())
    return {"after overflow": found[0], "after a good step": found[1]}


def overflow_on_one_rank_softmax(rank, ranks):
    return overflow_on_one_rank(rank, ranks, objective="softmax")


def alone(rank, ranks):
    """Independent models that step a different number of times, in a job that has a process group."""
    model, optimizer = started(group=False)
    for step in range(rank + 1):
        x, y = share(step, rank)
        optimizer.zero_grad()
        model(x, y).backward()
        optimizer.step()
    return {"counts": model.head.counts, "expected": 1 + sum(counted(share(s, rank)[1]) for s in range(rank + 1))}


def groups_of_two(rank, ranks):
    groups = [dist.new_group([first, first + 1]) for first in range(0, ranks, 2)]
    model, optimizer = started(group=groups[rank // 2])
    model(*share(3, rank)).backward()
    optimizer.step()
    pair = (rank // 2 * 2, rank // 2 * 2 + 1)
    return {"counts": model.head.counts, "expected": 1 + sum(counted(share(3, r)[1]) for r in pair)}


def growth(rank, ranks):
    """Each rank draws its own new rows; wrapping again makes them equal."""
    model, optimizer = started()
    for part in range(2):
        wrapped = DistributedDataParallel(model)
        for step in range(3):
            optimizer.zero_grad()
            wrapped(*share(step + 1, rank)).backward()
            optimizer.step()
        torch.manual_seed(rank)
        if part == 0:
            model.head.add_classes(3)
    return result(model)


def traffic(rank, ranks):
    """Bytes this rank hands to collectives in the write, by the number of classes."""
    sent, collectives = {}, ("all_gather", "all_reduce", "broadcast", "all_gather_into_tensor", "all_to_all")
    original = {name: getattr(dist, name) for name in collectives}

    def counting(name):
        def call(*args, **options):
            tensor = args[1] if name.startswith("all_gather") else args[0]
            sent[num_classes] = sent.get(num_classes, 0) + tensor.numel() * tensor.element_size()
            return original[name](*args, **options)

        return call

    for num_classes in (V, 100_000):
        model, optimizer = started(num_classes)
        model(*share(2, rank)).backward()
        for name in collectives:
            setattr(dist, name, counting(name))
        optimizer.step()
        for name in collectives:
            setattr(dist, name, original[name])
    return {"bytes": torch.tensor([sent[V], sent[100_000]])}


def counted(y):
    return torch.bincount(y, minlength=V)


EVERYWHERE = (
    ddp,
    ddp_accumulating,
    ddp_shrinkage,
    ddp_sight,
    ddp_adaptive,
    ddp_sampled,
    ddp_softmax,
    ddp_centered_softmax,
    ddp_newcomers,
    last_rank_is_silent,
    last_rank_is_silent_softmax,
    overflow_on_one_rank,
    overflow_on_one_rank_softmax,
    alone,
    groups_of_two,
    growth,
    traffic,
)


def work(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    torch.save({job.__name__: job(rank, ranks) for job in EVERYWHERE}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
