"""The write of an attached head: of what, and when. (What every head must do is in tests/contract.)"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from head_optimizers import OPTIMIZERS
from torch import nn

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.functional import hebbian_update_


def batch(n=12, d=5, v=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(v, (n,), generator=g)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_write_follows_each_step(name):
    torch.manual_seed(1)
    head = HebbianSoftmax(5, 9, T=4, gamma=0.2, rule="paper")
    plain = Softmax(5, 9)
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "counts"})
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
    head = HebbianSoftmax(5, 9)
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
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    h, y = torch.randn(1, 5), torch.tensor([4])
    with torch.autocast("cpu", torch.bfloat16):
        head.loss(h, y).backward()
        optimizer.step()
    assert torch.equal(head.weight[4], h[0])


def test_a_tied_embedding_gets_the_write():
    head = HebbianSoftmax(5, 9)
    embedding = nn.Embedding(9, 5)
    embedding.weight = head.weight
    head.write(torch.ones(1, 5), torch.tensor([3]))
    assert torch.equal(embedding(torch.tensor(3)), torch.ones(5))


def test_from_linear_takes_the_counts_given():
    linear = nn.Linear(5, 9)
    head = HebbianSoftmax.from_linear(linear, counts=torch.arange(9), T=3)
    assert (head.T, head.counts.tolist()) == (3, [1, 1, 2, 3, 4, 5, 6, 7, 8])
    assert (HebbianSoftmax.from_linear(linear).counts == 1).all()
    assert (HebbianSoftmax.from_linear(linear, counts=500).counts == 500).all()
    with pytest.raises(InputError, match="expected one number, or"):
        HebbianSoftmax.from_linear(linear, counts=torch.ones(8))


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
