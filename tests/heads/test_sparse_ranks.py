"""A head that averages its own sparse gradients over processes takes no others."""

import pytest
import torch
import torch.distributed as dist
from ranks import fork
from torch import nn

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


def refused(samples, of_all):
    dist.init_process_group("gloo")
    model = Model(samples, of_all)
    prepare_ddp(model)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model.head.attach(optimizer)
    try:
        model(*data(0, dist.get_rank())).backward()
    except InputError as error:
        return str(error)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("samples", "of_all"), [(30, False), (8, True)])
def test_a_dense_gradient_is_refused_for_nobody_would_average_it(samples, of_all):
    for said in fork(2, refused, samples, of_all):
        assert "was given a dense gradient" in said
