"""What the ranks of test_disagreeing_ranks.py do: heads that are not alike, and then a rank that does not come."""

import os
import signal
import time
import warnings

import torch
import torch.distributed as dist

from firstsight import HebbianAdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax, Softmax

V, D, STEPS = 11, 5, 4
PAPER = {"rule": "paper", "T": 500}


def full(num_classes=V, width=D, **options):
    return HebbianSoftmax(width, num_classes, **{**PAPER, **options})


def sampled(**options):
    return HebbianSampledSoftmax(D, V, samples=6, sampler="uniform", **{**PAPER, **options})


def adaptive(cutoffs=(3, 7)):
    return HebbianAdaptiveSoftmax(D, V, cutoffs=cutoffs, **PAPER)


def stepped(steps, **options):
    head = full(**options)
    train(head, steps, group=False)
    return head


# The heads of the first ranks, and that of the last one, which differs.
HEADS = {
    "rule": (full, lambda: full(rule="scaled")),
    "sight": (full, lambda: full(rule="sight")),
    "T": (full, lambda: full(T=1)),
    "gamma": (full, lambda: full(gamma=0.5)),
    "objective": (full, lambda: full(objective="softmax")),
    "prior_count": (lambda: full(rule="shrinkage"), lambda: full(rule="shrinkage", prior_count=3)),
    "price": (lambda: full(rule="sight"), lambda: full(rule="sight", price=2)),
    "num_classes": (full, lambda: full(num_classes=V + 2)),
    "in_features": (full, lambda: full(width=D + 3)),
    "dtype": (full, lambda: full(dtype=torch.float64)),
    "bias": (full, lambda: full(bias=False)),
    "step": (lambda: stepped(2), lambda: stepped(3)),
    "sampled": (sampled, lambda: sampled(T=1)),
    "seed": (sampled, lambda: sampled(seed=1)),
    "adaptive": (adaptive, lambda: adaptive((3, 8))),
}


def train(head, steps, group=None, leaves_out=None):
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    handle = head.attach(optimizer, group=group)
    for step in range(steps):
        optimizer.zero_grad()
        g = torch.Generator().manual_seed(step)
        h = torch.randn(7, head.in_features, generator=g, dtype=next(head.parameters()).dtype)
        head.loss(h, torch.randint(3, (7,), generator=g)).backward()
        if step != leaves_out:
            optimizer.step()
    handle.remove()


def error_of(work, *args, **options):
    start = time.monotonic()
    try:
        work(*args, **options)
    except Exception as error:
        return {"error": str(error), "kinds": [kind.__name__ for kind in type(error).__mro__], "s": seconds(start)}
    return {"error": "", "kinds": [], "s": seconds(start)}


def seconds(start):
    return time.monotonic() - start


def disagree(rank, ranks, name):
    """Then a step of heads that are alike: the ranks are still together."""
    first, last = HEADS[name]
    head = last() if rank == ranks - 1 else first()
    found = error_of(train, head, 1)
    train(full(), 1)
    return found


def skips(rank, ranks):
    """The last rank leaves a step out, and goes on to what comes after the training."""
    train(full(), STEPS, leaves_out=1 if rank == ranks - 1 else None)
    dist.barrier()


def skips_and_ends(rank, ranks):
    train(full(), STEPS, leaves_out=1 if rank == ranks - 1 else None)


def is_plain(rank, ranks):
    """One head has no write, and goes on to the next step of DDP, to which the others do not come."""
    head = full()
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(D, D))
    head = Softmax(D, V) if rank == ranks - 1 else head
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01)
    head.attach(optimizer)
    for _ in range(3):
        head.loss(model(torch.ones(2, D)), torch.arange(2)).backward()
        optimizer.step()


def is_killed(rank, ranks):
    train(full(), 2)
    if rank == ranks // 2:
        os.kill(os.getpid(), signal.SIGKILL)
    train(full(), 2)


def is_slow(rank, ranks):
    """Like one that compiles, evaluates or saves."""
    head = full()
    if rank == ranks - 1:
        time.sleep(9)
    train(head, 1)


def raises(rank, ranks):
    """One that ends by itself, before its first write."""
    head = full()
    if rank == 0:
        raise SystemExit("out of luck")
    train(head, 1)


def work(rank, ranks, folder, names, last):
    torch.set_num_threads(1)
    log = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    warnings.showwarning = lambda message, *_: os.write(2, f"{message}\n".encode())
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    found = {name: disagree(rank, ranks, name) for name in names}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    found["last"] = error_of(last, rank, ranks)
    torch.save(found, f"{folder}/{rank}.pt")
    t = time.monotonic()
    dist.destroy_process_group()
    os.write(2, f"destroyed {time.monotonic() - t}".encode())
