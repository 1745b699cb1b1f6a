"""The write under DistributedDataParallel: two ranks see different classes and hold the same rows and counts.

Every rank's classes are written on every rank, and each step equals one of a single process on the joined batch.
"""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import firstsight  # firstsight

CLASSES, WIDTH, STEPS, RANKS = 20, 8, 10, 2


def batch(rank, step):
    torch.manual_seed(1000 * rank + step)
    return torch.randn(16, WIDTH), torch.randint(rank, CLASSES // (1 + rank), (16,))


def train(model, ddp, batches):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    handle = firstsight.attach(model[-1], optimizer, counts="new")  # firstsight
    for x, y in batches:
        handle.labels(y)  # firstsight
        F.cross_entropy(ddp(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, CLASSES)).double()


def as_double(x, y):
    return x.double(), y


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    model = make_model()
    # No name for what DDP makes: it has to be gone when the group is destroyed, or torch may wait for ever.
    state = train(model, DistributedDataParallel(model), [as_double(*batch(rank, step)) for step in range(STEPS)])
    torch.save(state, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def main():
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (folder,), RANKS)
        first, second = (torch.load(f"{folder}/{rank}.pt") for rank in range(RANKS))
    joined = []
    for step in range(STEPS):
        inputs, labels = zip(*(as_double(*batch(rank, step)) for rank in range(RANKS)), strict=True)
        joined.append((torch.cat(inputs), torch.cat(labels)))
    model = make_model()
    alone = train(model, model, joined)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, alone[name], rtol=1e-6, atol=1e-6)
    print(
        f"{RANKS} ranks agree bit for bit, and with one process to 1e-6; counts {first['2.firstsight_counts'].tolist()}"
    )


if __name__ == "__main__":
    main()
