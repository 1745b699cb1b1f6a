"""The write of an attached head: of what, and when. (What every head must do is in tests/contract.)"""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_optimizers import OPTIMIZERS
from torch import nn

from firstsight import HebbianSoftmax, InputError, Softmax, attach
from firstsight.functional import hebbian_update_
from firstsight.heads.kept.fresh import COUNTED, NEW


def batch(n=12, d=5, v=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(v, (n,), generator=g)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_write_follows_each_step(name):
    torch.manual_seed(1)
    head = HebbianSoftmax(5, 9, T=4, gamma=0.2, rule="paper")
    plain = Softmax(5, 9)
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k in ("weight", "bias")})
    optimizer, reference = (OPTIMIZERS[name](m.parameters()) for m in (head, plain))
    head.attach(optimizer)
    counts = torch.ones(9, dtype=torch.int64)
    for step in range(6):
        h, y = batch(seed=step)
        for model, opt in ((head, optimizer), (plain, reference)):
            opt.zero_grad()
            model.loss(h, y).backward()
            opt.step()
        hebbian_update_(plain.weight.data, counts, h, y, T=4, gamma=0.2)
        assert torch.equal(head.weight, plain.weight)
        assert torch.equal(head.counts, counts)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_no_step_used_is_dropped(set_to_none):
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    dropped, kept = batch(seed=1), batch(seed=2)
    head.loss(*dropped)  # never went backward
    head.loss(*dropped).backward()
    optimizer.zero_grad(set_to_none=set_to_none)  # as after a step that a GradScaler skipped
    head.loss(*kept).backward()
    optimizer.step()
    assert torch.equal(head.counts, 1 + torch.bincount(kept[1], minlength=9))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_step_without_the_loss_writes_nothing_that_was_zeroed_before(set_to_none, tied):
    """After a step that was skipped, the next may be one of another part of the model, which may share the weight."""
    head, other = HebbianSoftmax(5, 9), nn.Embedding(9, 5)
    if tied:
        other.weight = head.weight
    optimizer = torch.optim.SGD({*head.parameters(), *other.parameters()}, lr=0.1)
    head.attach(optimizer)
    h, y = batch()
    head.loss(h, y).backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    other(y).sum().backward()
    optimizer.step()
    assert (head.counts == 1).all()


def test_what_goes_backward_while_let_go_is_not_written_later():
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    handle = head.attach(optimizer)
    loss = head.loss(*batch())
    handle.remove()
    loss.backward()
    head.attach(optimizer)
    optimizer.step()
    assert (head.counts == 1).all()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_a_copy_has_no_part_in_what_is_pending(duplicate):
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    head.loss(*batch()).backward()
    other, counts = duplicate(head), head.counts.clone()
    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other.attach(other_optimizer)
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    other_optimizer.step()
    assert torch.equal(other.counts, counts)
    optimizer.step()
    assert torch.equal(head.counts, 1 + torch.bincount(batch()[1], minlength=9))


def test_all_losses_of_one_backward_pass_are_written():
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    first, second = batch(seed=1), batch(seed=2)
    (head.loss(*first) + head.nll(*second).mean()).backward()
    optimizer.step()
    assert torch.equal(head.counts, 1 + torch.bincount(torch.cat([first[1], second[1]]), minlength=9))


def test_a_gradient_that_is_zero_was_not_zeroed():
    """Of one class the gradient is always 0, but for rounding, and so is that of what is learnt to the last bit."""
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    for _ in range(3):
        head.loss(torch.zeros(4, 5), torch.tensor([7, 7, 7, 7])).backward()
        assert not head.weight.grad.any()
    torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
    optimizer.step()
    assert head.counts[7] == 13


@pytest.mark.parametrize("how", ["looked at", "failed"])
def test_a_backward_pass_that_brings_no_gradient_leaves_no_trace(how):
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    h, y = batch(seed=1)
    if how == "looked at":
        torch.autograd.grad(head.loss(h.requires_grad_(), y), h)
    else:
        h = h.clone().requires_grad_()
        h.register_hook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            head.loss(h * 1, y).backward()
        optimizer.zero_grad()
    kept = batch(seed=2)
    head.loss(*kept).backward()
    optimizer.step()
    assert torch.equal(head.counts, 1 + torch.bincount(kept[1], minlength=9))


def test_buffers_may_be_used_again_after_the_backward_pass():
    head = HebbianSoftmax(5, 9, rule="paper")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    h, y = torch.ones(1, 5), torch.tensor([3])
    head.loss(h, y).backward()
    h.zero_()
    y.zero_()
    optimizer.step()
    assert (head.weight[3] == 1).all()
    assert head.counts[3] == 2


def test_nothing_is_written_in_evaluation_or_after_removal():
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    handle = head.attach(optimizer)
    head.eval()
    head.loss(*batch()).backward()
    optimizer.step()
    head.train()
    handle.remove()
    handle.remove()
    head.loss(*batch()).backward()
    optimizer.step()
    assert (head.counts == 1).all()
    head.attach(optimizer)  # and again is allowed


def test_write_alone_teaches_a_class_at_once():
    head = HebbianSoftmax(8, 50, rule="paper")
    h = F.normalize(torch.randn(8), dim=0) * 10
    head.write(h, torch.tensor(17))
    assert head(h).argmax() == 17
    assert head.counts[17] == 2


def test_the_write_under_bf16_autocast_is_in_float32():
    head = HebbianSoftmax(5, 9, rule="paper")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    h, y = torch.randn(1, 5), torch.tensor([4])
    with torch.autocast("cpu", torch.bfloat16):
        head.loss(h, y).backward()
        optimizer.step()
    assert torch.equal(head.weight[4], h[0])


def test_a_tied_embedding_gets_the_write():
    head = HebbianSoftmax(5, 9, rule="paper")
    embedding = nn.Embedding(9, 5)
    embedding.weight = head.weight
    head.write(torch.ones(1, 5), torch.tensor([3]))
    assert torch.equal(embedding(torch.tensor(3)), torch.ones(5))


@pytest.mark.parametrize("kind", [torch.tensor, list, np.array, tuple])
def test_counts_are_occurrences_of_any_kind(kind):
    occurrences = kind([3, 0, 5, 1, 1, 1, 1, 1, 2])
    head = HebbianSoftmax.from_linear(nn.Linear(5, 9), occurrences, T=3)
    assert (head.T, head.counts.tolist()) == (3, [4, 1, 6, 2, 2, 2, 2, 2, 3])
    assert head.fresh.tolist() == [COUNTED, NEW] + [COUNTED] * 7, "what never occurred is new to a trained layer"


@pytest.mark.parametrize(("rule", "counts"), [("sight", 1), ("centered", 500), ("paper", 500)])
def test_a_layer_is_new_or_trained(rule, counts):
    taken = functools.partial(HebbianSoftmax.from_linear, nn.Linear(5, 9), T=499.5, rule=rule)
    assert taken("new").counts.tolist() == [1] * 9
    head = taken("trained", new=[2, 8])
    assert head.counts.tolist() == [counts, counts, 1, counts, counts, counts, counts, counts, 1]
    before = head.weight.detach().clone()
    head.write(torch.randn(2, 5), torch.tensor([3, 4]))
    assert torch.equal(head.weight, before), "rows of a trained layer are left to the gradient"


@pytest.mark.parametrize(
    ("counts", "new", "said"),
    [
        (None, (), 'counts is None; expected "new" for a layer that starts'),
        (9, (), "counts is 9; expected"),
        ("old", (), "counts is 'old'; expected"),
        (torch.ones(9), (), r"counts is \[9\] torch.float32; expected"),
        ([1] * 8, (), r"counts is \[8\] torch.int64; expected .*\[9\]"),
        ([-1] * 9, (), "expected"),
        (["a"] * 9, (), "expected"),
        ("new", [3], 'counts is "new", so that all classes are'),
        ("trained", [9], r"new is \[9\]; expected labels from 0 to 8"),
        ([1] * 9, [3], "expected 0 occurrences of what is new"),
    ],
)
def test_counts_that_say_nothing_clear_are_refused(counts, new, said):
    linear = nn.Linear(5, 9)
    with pytest.raises(InputError, match=said):
        HebbianSoftmax.from_linear(linear, counts, new=new)
    with pytest.raises(InputError, match=said):
        attach(linear, torch.optim.SGD(linear.parameters(), 0.1), counts=counts, new=new)
    assert not list(linear.buffers())


@pytest.mark.parametrize(("arguments", "message"), [({"T": 0}, "T is 0"), ({"gamma": 2}, "gamma is 2")])
def test_a_bad_rule_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        HebbianSoftmax(5, 9, **arguments)


def test_bad_use_is_named():
    head = HebbianSoftmax(5, 9)
    with pytest.raises(InputError, match="label 9; expected 0 to 8"):
        head.write(torch.zeros(1, 5), torch.tensor([9]))
    head.weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"does not require a gradient.*head.write"):
        head.attach(torch.optim.SGD(head.parameters(), lr=0.1))


def test_the_papers_rule_in_a_head_is_the_pure_function():
    head = HebbianSoftmax(5, 9, T=3, gamma=0.3, rule="paper")
    weight, counts = head.weight.detach().clone(), head.counts.clone()
    for _ in range(2):
        hidden, target = batch()
        hebbian_update_(weight, counts, hidden, target, T=3, gamma=0.3)
        head.write(hidden, target)
    assert torch.equal(head.weight, weight)
    assert torch.equal(head.counts, counts)
