"""Gradients of a head that averages them over processes itself: sparse ones, and dense ones of all classes."""

import pytest
import torch
import torch.distributed as dist
from ranks import float64, fork
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from firstsight import HebbianSampledSoftmax, InputError, SampledSoftmax, prepare_ddp


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


class Two(nn.Module):
    """A body and two heads, each of which may be left out, and whose rows the body may read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({name: SampledSoftmax(4, 30, samples=8, sparse=True) for name in "ab"})

    def forward(self, x, y, heads, tied):
        x = x + self.heads["a"].embedding(y) if tied else x
        return sum(self.heads[name].loss(self.body(x).tanh(), y) for name in heads)


def two(of_ranks, attached):
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    if attached:  # which has nothing to do with whose gradients are averaged
        for head in model.heads.values():
            head.attach(optimizer)
    dist.init_process_group("gloo")
    prepare_ddp(model)
    prepare_ddp(model)  # as after classes were added
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    said = ""
    for step in range(3):
        g = torch.Generator().manual_seed(10 * step + dist.get_rank())
        x, y = torch.randn(5, 4, generator=g), torch.randint(30, (5,), generator=g)
        try:
            wrapped(x, y, *of_ranks[dist.get_rank()]).backward()
        except InputError as error:
            said = str(error)
            break
        optimizer.step()
        optimizer.zero_grad()
    del wrapped
    dist.destroy_process_group()
    return said, {name: value.numpy() for name, value in model.state_dict().items() if "step" not in name}


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("of_ranks", [[("ab", False), ("ba", False)], [("ab", True), ("ba", False)]])
def test_heads_may_come_in_any_order(of_ranks, attached):
    found = fork(2, two, of_ranks, attached)
    with float64():
        model = Two()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for step in range(3):
            for rank, options in enumerate(of_ranks):
                g = torch.Generator().manual_seed(10 * step + rank)
                x, y = torch.randn(5, 4, generator=g), torch.randint(30, (5,), generator=g)
                for head in model.heads.values():
                    head.step.fill_(step)
                (model(x, y, *options) / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    for said, state in found:
        assert said == ""
        for name, value in state.items():
            torch.testing.assert_close(
                torch.from_numpy(value), model.state_dict()[name], rtol=1e-8, atol=1e-9, msg=name
            )


def test_every_process_hears_that_another_came_by_another_head():
    for rank, (said, _) in enumerate(fork(2, two, [("a", False), ("b", False)], True)):
        assert f"backward pass came by heads.{'ab'[rank]}, a head with sparse gradients" in said
        assert "1 others by another one" in said


def test_every_process_hears_that_one_has_a_dense_gradient_and_another_a_sparse_one():
    for said in fork(2, apart, 8):
        assert "of 2 processes 1 have a dense gradient" in said


def in_a_group():
    dist.init_process_group("gloo")
    rank, group = dist.get_rank(), dist.new_group([1, 2])
    model = Model(8, False)
    with torch.no_grad():
        model.head.weight += rank
    if rank:
        prepare_ddp(model, group)
        wrapped = DistributedDataParallel(model, process_group=group)
        wrapped(*data(0, rank)).backward()
        del wrapped
    dist.barrier()
    dist.destroy_process_group()
    return model.head.weight.detach().numpy(), model.head.weight.grad.to_dense().numpy() if rank else None


def test_a_group_of_some_processes_has_a_mean_of_its_own():
    (_, none), (rows, mean), (others, same) = fork(3, in_a_group)
    assert none is None
    assert (rows == others).all()
    assert (mean == same).all()
    with float64():
        model = Model(8, False)
        with torch.no_grad():
            model.head.weight += 1
        model(*(torch.cat(part) for part in zip(data(0, 1), data(0, 2), strict=True))).backward()
    assert (torch.from_numpy(rows) == model.head.weight).all()
    torch.testing.assert_close(torch.from_numpy(mean), model.head.weight.grad.to_dense(), rtol=1e-8, atol=1e-9)
