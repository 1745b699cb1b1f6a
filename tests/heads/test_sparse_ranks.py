"""Gradients of a head that averages them over processes itself: sparse ones, and dense ones of all classes."""

import pytest
import torch
import torch.distributed as dist
from ranks import float64, fork
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import HebbianSampledSoftmax, InputError, prepare_ddp


class Model(nn.Module):
    def __init__(self, samples, of_all):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.of_all = nn.Linear(3, 4), of_all
        self.head = HebbianSampledSoftmax(4, 30, samples=samples, sparse=True)

    def forward(self, x, y):
        h = self.body(x).tanh()
        return self.head.nll(h, y).mean() if self.of_all else self.head.loss(h, y)


def data(step, rank):
    g = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(6, 3, generator=g), torch.randint(30, (6,), generator=g)


def on_ranks(samples, of_all):
    dist.init_process_group("gloo")
    model = Model(samples, of_all)
    with torch.no_grad():
        model.head.weight += dist.get_rank()  # which prepare_ddp takes back
    prepare_ddp(model)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model.head.attach(optimizer)
    for step in range(4):
        wrapped(*data(step, dist.get_rank())).backward()
        optimizer.step()
        optimizer.zero_grad()
    del wrapped  # before the group: as its last holder DDP would wait for gloo's thread with the GIL in its hands
    dist.destroy_process_group()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def alone(samples, of_all):
    model = Model(samples, of_all)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model.head.attach(optimizer)
    for step in range(4):
        x, y = (torch.cat(part) for part in zip(*(data(step, rank) for rank in range(2)), strict=True))
        model(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def apart(samples):
    dist.init_process_group("gloo")
    model = Model(samples, of_all=dist.get_rank() == 1)
    prepare_ddp(model)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model.head.attach(optimizer)
    try:
        model(*data(0, dist.get_rank())).backward()
    except InputError as error:
        return str(error)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("samples", "of_all"), [(8, False), (30, False), (8, True)])
def test_two_processes_train_as_one_on_the_joined_batch(samples, of_all):
    found = fork(2, on_ranks, samples, of_all)
    with float64():
        expected = alone(samples, of_all)
    for rank in found:
        for name, value in expected.items():
            torch.testing.assert_close(torch.from_numpy(rank[name]), value, rtol=1e-8, atol=1e-9, msg=name)


def test_every_process_hears_that_one_has_a_dense_gradient_and_another_a_sparse_one():
    for said in fork(2, apart, 8):
        assert "of 2 processes 1 have a dense gradient" in said
