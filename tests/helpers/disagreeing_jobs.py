"""What the ranks of test_disagreeing_ranks.py do: heads that are not alike, and then a rank that does not come."""

import os
import signal
import time
import warnings

import torch
import torch.distributed as dist

from firstsight import HebbianAdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax, Softmax
from firstsight.heads.steps import peers

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


def train(head, steps, group=None, leaves_out=None, lr=0.01):
    optimizer = torch.optim.SGD(head.parameters(), lr=lr)
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
    """How ``work`` ended, after how many seconds."""
    start, error = time.monotonic(), None
    try:
        work(*args, **options)
    except Exception as found:
        error = found
    kinds = [] if error is None else [kind.__name__ for kind in type(error).__mro__]
    return {"error": str(error or ""), "kinds": kinds, "seconds": time.monotonic() - start}


def disagree(rank, ranks, name):
    """Heads that differ, and then a step of heads that are alike: the ranks are still together."""
    first, last = HEADS[name]
    head = last() if rank == ranks - 1 else first()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    found = error_of(train, head, 1, lr=0.0)
    before.pop("step", None)  # of the draws of a sampled softmax, which go with the optimizer's steps
    found["as it was"] = all(torch.equal(value, head.state_dict()[name]) for name, value in before.items())
    train(full(), 1)
    return found


def leaves_out_a_step(rank, ranks):
    """The last rank does, and goes on to what comes after the training."""
    train(full(), STEPS, leaves_out=1 if rank == ranks - 1 else None)
    dist.barrier()


def leaves_out_a_step_and_ends(rank, ranks):
    train(full(), STEPS, leaves_out=1 if rank == ranks - 1 else None)


def has_no_write(rank, ranks):
    """The last rank's head has none, and goes on to the next step of DDP, to which the others do not come."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(D, D))
    head = Softmax(D, V) if rank == ranks - 1 else full()
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


def ends_before_its_first_write(rank, ranks):
    head = full()
    if rank == ranks - 1:
        raise SystemExit("out of luck")
    train(head, 1)


def is_at_work(rank, ranks):
    """As one that compiles, evaluates or saves; another waits for it elsewhere, and messages go from one to another."""
    head, two = full(), dist.new_group([ranks - 2, ranks - 1])
    train(head, 1)
    if rank == ranks - 2:
        dist.send(torch.ones(1), ranks - 1)
        time.sleep(4)
    if rank == ranks - 1:
        dist.recv(torch.ones(1), ranks - 2)
    if rank >= ranks - 2:
        dist.all_reduce(torch.ones(1), group=two)
    train(head, 2)


def work(rank, ranks, folder, names, last, patient):
    torch.set_num_threads(1)
    os.dup2(os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    warnings.showwarning = lambda message, *_: os.write(2, f"{message}\n".encode())
    peers.PATIENT = patient
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    found = {name: disagree(rank, ranks, name) for name in names}
    dist.barrier()
    found["last"] = error_of(last, rank, ranks)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
