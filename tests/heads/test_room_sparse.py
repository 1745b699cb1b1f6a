"""Sparse gradients of a head that grows and shrinks."""

import pytest
import torch
from torch import nn

from firstsight import Softmax

D = 3


def of(where, values, shape):
    return torch.sparse_coo_tensor(torch.tensor([where]), values, shape, check_invariants=True)


@pytest.mark.parametrize("make", [torch.optim.Adagrad, torch.optim.SparseAdam])
@pytest.mark.parametrize("coalesced", [False, True])
def test_a_sparse_gradient_grows_and_shrinks_with_its_head(make, coalesced):
    head = Softmax(D, 9, bias=False)
    optimizer = make([head.weight], lr=0.1)
    head.attach(optimizer)
    plain = head.weight.detach().clone()
    twin = nn.Parameter(plain)
    other = make([twin], lr=0.1)
    for steps in range(3):
        where = [1, 4, 5, 8] if coalesced else [4, 1, 8, 4, 5]
        values = torch.randn(len(where), D)
        grad = of(where, values, (len(head.weight), D))
        twin.grad, head.weight.grad = grad.clone(), grad.coalesce() if coalesced else grad
        if steps:
            optimizer.step()
            other.step()
        else:
            head.add_classes(2)
            assert head.weight.grad.shape == (11, D)
            assert head.weight.grad.is_coalesced() == coalesced
            assert torch.equal(head.weight.grad.to_dense()[:9], grad.to_dense())
            assert not head.weight.grad.to_dense()[9:].any()
            rows = torch.cat([twin.detach(), head.weight.detach()[9:]])
            twin = nn.Parameter(rows)
            other = make([twin], lr=0.1)
    assert torch.equal(head.weight, twin)
    left = [0, 2, 3, 4, 6, 7, 8, 9]
    want = {
        name: value[left] for name, value in other.state[twin].items() if isinstance(value, torch.Tensor) and value.ndim
    }
    dense = head.weight.grad.to_dense()
    head.remove_classes([1, 5, 10])
    assert torch.equal(head.weight, twin[left])
    assert head.weight.grad.indices().tolist() == [[3, 6]]
    assert torch.equal(head.weight.grad.to_dense(), dense[left])
    assert len(want) == (2 if make is torch.optim.SparseAdam else 1)
    assert all(torch.equal(optimizer.state[head.weight][name], value) for name, value in want.items())
    optimizer.step()


def test_a_sparse_gradient_may_lose_all_its_rows():
    head = Softmax(D, 9, bias=False)
    head.weight.grad = of([2, 8], torch.ones(2, D), (9, D))
    head.remove_classes([2, 8])
    assert head.weight.grad.shape == (7, D)
    assert not head.weight.grad.to_dense().any()
