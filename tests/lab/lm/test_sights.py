"""The learning curve of a class, against a plain loop, and the guard: a fast learner ranks above a slow one."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.functional import linear_cross_entropy
from firstsight.lab.lm.sights import Sights


def bucket(seen):
    return 0 if seen == 0 else 2 ** int(math.log2(seen))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 30), parts=st.integers(1, 3))
def test_sums_equal_a_plain_loop(seed, steps, parts):
    rng = np.random.default_rng(seed)
    V = int(rng.integers(1, 9))
    sights, seen, found = Sights(V), [0] * V, {}
    for _ in range(steps):
        target, nll = rng.integers(0, V, (3, 5)), rng.normal(size=(3, 5)).astype(np.float32)
        for part in range(parts):  # micro-batches of one step
            sights.add(torch.from_numpy(nll[part::parts]), torch.from_numpy(target[part::parts]))
        sights.step()
        for y, value in zip(target.flatten().tolist(), nll.flatten().tolist(), strict=True):
            found.setdefault(bucket(seen[y]), []).append(value)
        for y in target.flatten().tolist():
            seen[y] += 1
    taken = sights.take()
    assert [(line["seen"], line["tokens"]) for line in taken] == [(k, len(found[k])) for k in sorted(found)]
    np.testing.assert_allclose([line["nll"] for line in taken], [np.mean(found[k]) for k in sorted(found)], atol=1e-6)
    assert sights.seen_V.tolist() == seen
    assert sights.take() == []
    json.dumps(taken)


def test_powers_of_two_open_their_buckets():
    for seen in [1, 2, 3, 4, 7, 8, 2**20 - 1, 2**20, 2**20 + 1]:
        sights = Sights(1)
        sights.seen_V[0] = seen
        sights.add(torch.zeros(1), torch.tensor([0]))
        assert [line["seen"] for line in sights.take()] == [bucket(seen)]


def test_a_planted_fast_learner_ranks_above_a_planted_slow_one():
    """Both see the same stream of clustered activations in which new classes keep coming; one writes at once."""
    V, D, per_step = 60, 16, 20
    torch.manual_seed(0)
    centres_VD = torch.nn.functional.normalize(torch.randn(V, D), dim=1) * 4

    def learn(head, rate):
        rng = torch.Generator().manual_seed(1)
        optimizer = torch.optim.SGD(head.parameters(), lr=rate)
        head.attach(optimizer)
        sights = Sights(V)
        for step in range(100):
            met = min(V, 2 + step)  # a new class with every step
            y_N = torch.randint(0, met, (per_step,), generator=rng)
            h_ND = centres_VD[y_N] + 0.3 * torch.randn(per_step, D, generator=rng)
            loss, nll_N = head.loss_and_nll(h_ND, y_N)
            sights.add(nll_N, y_N)
            sights.step()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return {line["seen"]: (line["tokens"], line["nll"]) for line in sights.take()}

    torch.manual_seed(2)
    fast = learn(HebbianSoftmax(D, V, T=20, gamma=0.05), 0.01)
    torch.manual_seed(2)
    slow = learn(Softmax(D, V), 0.01)
    assert fast.keys() == slow.keys()
    assert all(fast[k][0] == slow[k][0] for k in fast), "the events are the same ones"
    for k in (1, 2, 4, 8):
        assert fast[k][1] < slow[k][1] - 0.5, k
    assert fast[0][1] > fast[1][1] + 0.5
    assert abs(slow[0][1] - slow[1][1]) < 0.5


def test_the_values_behind_the_mean_cost_nothing_and_leave_the_loss_alone():
    torch.manual_seed(0)
    for dtype, V in ((torch.float64, 7), (torch.float32, 1001)):
        head = Softmax(5, V, dtype=dtype)
        hidden = torch.randn(3, 11, 5, dtype=dtype, requires_grad=True)
        target = torch.randint(0, V, (3, 11))
        target[0, :4] = -100
        loss, nll = head.loss_and_nll(hidden, target)
        assert not nll.requires_grad
        assert nll.dtype == dtype
        assert torch.equal(loss, head.loss(hidden, target))
        torch.testing.assert_close(nll, head.nll(hidden, target).detach())
        loss.backward()
        plain = torch.nn.functional.cross_entropy(head(hidden).flatten(0, 1), target.flatten())
        expected = torch.autograd.grad(plain, hidden)[0]
        torch.testing.assert_close(hidden.grad, expected, rtol=1e-5, atol=1e-7)


def test_the_place_for_the_values_must_fit():
    with pytest.raises(InputError, match=r"nll_out is \[3, 2\]; expected \[2\]"):
        linear_cross_entropy(
            torch.zeros(2, 5), torch.zeros(4, 5), torch.zeros(2, dtype=torch.int64), nll_out=torch.zeros(3, 2)
        )
