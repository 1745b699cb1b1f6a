"""Trained classes that are removed: what the layer remembers is that of those that are left."""

import numpy as np
import pytest
import torch

from firstsight import HebbianSoftmax
from firstsight.fitting import fit_head


def trained(V, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(V, D, generator=g)
    y = torch.arange(V).repeat(20)
    torch.manual_seed(seed)
    head = HebbianSoftmax(D, V)
    fit_head(head, centres[y] + 0.5 * torch.randn(len(y), D, generator=g), y, rate=0.05, epochs=1, least_steps=150)
    return head, lambda label, n: centres[label] + 0.5 * torch.randn(n, D, generator=g)


def cross_of(head):
    """Means of rows and activations, and their covariance, from the buffer as ``Moments`` lays it out."""
    D, moments = head.in_features, head.moments.double().numpy() / float(head.moments[0, 0])
    return moments[1 + D :, 0], moments[0, 1:], moments[1 + D :, 1:] - np.outer(moments[1 + D :, 0], moments[0, 1:])


@pytest.mark.parametrize(("V", "D"), [(6, 12), (30, 5)])
def test_the_covariance_of_rows_and_activations_is_that_of_the_rows_left(V, D):
    head, _ = trained(V, D)
    share = (head.counts - 1).double().numpy()
    w, (_, mean, C) = head.weight.detach().double().numpy(), cross_of(head)
    before = np.cov(w.T, aweights=share, ddof=0)
    left = [v for v in range(V) if v not in (1, 4)]
    after = np.cov(w[left].T, aweights=share[left], ddof=0)
    head.remove_classes([4, 1])
    row_now, mean_now, C_now = cross_of(head)
    assert np.allclose(mean_now, mean)
    assert np.allclose(row_now, np.average(w[left], axis=0, weights=share[left]), atol=1e-4)
    assert np.allclose(C_now, after @ np.linalg.pinv(before, rcond=1e-6) @ C, atol=1e-3)


@pytest.mark.parametrize(("V", "D"), [(8, 24), (40, 12)])
@pytest.mark.parametrize("k", [1, 5])
def test_a_class_that_was_removed_and_comes_again_is_found(V, D, k):
    head, draw = trained(V, D)
    head.remove_classes([2, 5])
    head.add_classes(1)
    head.write(draw(2, k), torch.full((k,), V - 2))
    assert (head(draw(2, 200)).argmax(-1) == V - 2).float().mean() > 0.5
    assert (head(draw(0, 200)).argmax(-1) == 0).float().mean() > 0.9


def test_newcomers_that_go_leave_the_moments_alone():
    head, draw = trained(8, 12)
    before = head.moments.clone()
    head.add_classes(3)
    head.write(draw(0, 3), torch.tensor([8, 9, 10]))
    head.remove_classes([8, 10])
    assert torch.equal(head.moments, before)
