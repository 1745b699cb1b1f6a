"""MbPA follows the head: whatever changes it between two calls, the pairs' distributions are those of the head now."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from memory_reference import PlainMbPA, assert_nll, make_head, make_stream, pieces

from firstsight import HebbianSoftmax, MbPA, score_stream


@pytest.mark.parametrize("steps", [1, 2])
def test_the_head_is_taken_as_it_is_at_each_call(steps):
    """The pairs' distributions are those of the head now, not of the head that they came from."""
    hidden, target = make_stream(5, (40,), 6, 4)
    head, memory, plain = make_head(5, 6, 4), MbPA(15, 5, steps=steps), PlainMbPA(15, 5, 0.3, 0.5, steps)
    for h, y in pieces(hidden, target, [13, 14, 30]):
        assert_nll(memory.nll(head, h, y), plain.nll(head, h, y))
        with torch.no_grad():
            head.weight.neg_()
            head.bias += 1 - 2 * torch.arange(6)
    other = make_head(6, 6, 4, bias=False)
    assert_nll(memory.nll(other, hidden, target), plain.nll(other, hidden, target))


def change_bias(head):
    with torch.no_grad():
        head.bias += 1 - 2 * torch.arange(6)


def change_weight_out_of_sight(head):
    head.weight.data.neg_()  # autograd's version counter does not see it


def change_in_inference_mode(head):
    with torch.inference_mode():
        head.weight.neg_()


def another_parameter(head):
    head.weight = torch.nn.Parameter(-head.weight.detach())


@pytest.mark.parametrize(
    "change", [change_bias, change_weight_out_of_sight, change_in_inference_mode, another_parameter]
)
@pytest.mark.parametrize("steps", [1, 2])
def test_no_change_of_the_head_is_missed(change, steps):
    hidden, target = make_stream(5, (30,), 6, 4)
    head, memory, plain = make_head(5, 6, 4), MbPA(15, 5, steps=steps), PlainMbPA(15, 5, 0.3, 0.5, steps)
    for h, y in pieces(hidden, target, [10, 20]):
        assert_nll(memory.nll(head, h, y), plain.nll(head, h, y))
        change(head)


def test_another_head_at_the_same_place_in_memory():
    """As a head has that is loaded after another one is gone."""
    hidden, target = make_stream(5, (30,), 6, 4)
    numbers, memory, plain = np.random.default_rng(0).normal(size=(6, 4)), MbPA(15, 5), PlainMbPA(15, 5, 0.3, 0.5, 1)
    for h, y in pieces(hidden, target, [10, 20]):
        head = SimpleNamespace(weight=torch.from_numpy(numbers), bias=None)
        assert_nll(memory.nll(head, h, y), plain.nll(head, h, y))
        numbers *= -1


def test_head_that_grows():
    hidden, target = make_stream(6, (40,), 6, 4)
    head, memory, plain = HebbianSoftmax(4, 6).double(), MbPA(15, 5), PlainMbPA(15, 5, 0.3, 0.5, 1)
    for h, y in pieces(hidden, target, [20]):
        y = y + (len(head.weight) - 6)
        assert_nll(memory.nll(head, h, y), plain.nll(head, h, y))
        head.add_classes(1)


@pytest.mark.parametrize(("masked", "value"), [(0, -np.inf), (3, -np.inf), (0, -1e9)])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_class_that_the_bias_rules_out(masked, value, steps):
    """As padding is, often the first class."""
    hidden, target = make_stream(7, (30,), 6, 4, dtype=torch.float32)
    target[target == masked] = 1
    head = make_head(7, 6, 4, dtype=torch.float32)
    with torch.no_grad():
        head.bias[masked] = value
    expected = PlainMbPA(15, 15, 0.3, 0.5, steps).nll(head, hidden, target)
    assert_nll(MbPA(15, 15, steps=steps).nll(head, hidden, target), expected)


def test_head_is_left_as_it_is():
    hidden, target = make_stream(7, (30,), 6, 4)
    head = make_head(7, 6, 4, kind="hebbian").train()
    before = copy.deepcopy(head.state_dict())
    MbPA(10, 4, steps=2).nll(head, hidden, target)
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name])
    assert head.weight.grad is None
    assert head.weight.requires_grad
    assert head.training


def test_head_and_activations_of_inference_mode():
    """As a loop has them that runs the model under it, and scores within or without."""
    hidden, target = make_stream(8, (30,), 6, 4)
    head = make_head(8, 6, 4)
    expected = PlainMbPA(15, 5, 0.3, 0.5, 1).nll(head, hidden, target)
    with torch.inference_mode():
        head, memory = copy.deepcopy(head), MbPA(15, 5)
        h, y = hidden.clone(), target.clone()
        first = memory.nll(head, h[:12], y[:12])
    assert head.weight.is_inference()
    assert h.is_inference()
    nll = torch.cat([first, memory.nll(head, h[12:20], y[12:20]), memory.nll(head, hidden[20:], target[20:])])
    assert_nll(nll, expected)


def test_training_goes_on_beside_a_memory():
    """Scoring neither enters the graph nor spoils one that is being built."""
    hidden, target = make_stream(9, (30,), 6, 4)
    head, memory = HebbianSoftmax(4, 6).double(), MbPA(15, 5)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    head.attach(optimizer)
    plain = PlainMbPA(15, 5, 0.3, 0.5, 1)
    for h, y in pieces(hidden, target, [10, 20]):
        loss = head.loss(h, y)
        model = head.nll(h, y).detach()
        part, plain_nll = (m.nll(head, h, y) for m in (memory, plain))
        assert_nll(part, plain_nll)
        assert_nll(score_stream(head, h, y), model, 1e-12)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
