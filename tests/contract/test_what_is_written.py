"""What is written is what was finite, given by value, trained on and of the labels that the loss had."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from contract_heads import D, V, attached, batch, drawn, same, sgd, steps_of

from firstsight import HebbianSoftmax, InputError


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_never_written(hebbian, bad):
    head, optimizer = attached(hebbian)
    reference = copy.deepcopy(head)
    other = sgd(reference)
    reference.attach(other)
    h, y = batch()
    broken = h.clone()
    broken[3, 1], broken[7] = bad, bad
    kept = y.masked_fill(~broken.isfinite().all(1), -100)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="NaN or infinity"):
        head.write(broken, y)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):  # a loss that leaves them out, as a robust one does
            for one, by, hidden, labels in ((head, optimizer, broken, y), (reference, other, h, kept)):
                by.zero_grad()
                logits = one(h)
                one.observe(logits, hidden, labels)
                F.cross_entropy(logits, kept).backward()
                by.step()
    assert [str(one.message)[:50] for one in said] == ["an example that is NaN or infinite was left out of"]
    assert same(head, reference)


def test_activations_that_cannot_be_added_up_are_refused_in_service(hebbian):
    head = hebbian(D, V, dtype=torch.float64)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="some too large to add up"):
        head.write(torch.full((2, D), 1e308, dtype=torch.float64), torch.tensor([3, 3]))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_sums_that_overflow_are_left_out(hebbian):
    head, optimizer = attached(hebbian)
    h, y = batch()
    out = head.weight.sum() * 0
    with pytest.warns(UserWarning, match="left out of the write"):
        head.observe(out, torch.full_like(h, 1e308), torch.zeros_like(y))
    out.backward()
    optimizer.step()
    assert head.weight.isfinite().all()


def test_what_happens_after_the_loss_is_not_written(hebbian):
    heads = []
    for late in (False, True):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian)
        h, y = batch()
        h.requires_grad_()
        loss = head.loss(h, y)
        if late:
            with torch.no_grad():
                y.fill_(0)
                h.data.zero_()
        loss.backward()
        optimizer.step()
        heads.append(head)
    assert same(*heads)


@pytest.mark.parametrize("how", ["autograd.grad", "inputs", "grad of the weight", "create_graph"])
def test_a_pass_that_never_reached_the_weight_is_not_written(hebbian, how):
    heads = []
    for looked in (False, True):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian)
        h, y = batch()
        head.loss(h, y).backward()
        if looked:
            x = batch(seed=9)[0].requires_grad_()
            loss = head.loss(x, batch(seed=9)[1])
            if how == "autograd.grad":
                torch.autograd.grad(loss, x)
            elif how == "create_graph":
                torch.autograd.grad(loss, x, create_graph=True)
            elif how == "inputs":
                loss.backward(inputs=[x])
            else:
                torch.autograd.grad(loss, head.weight)
        optimizer.step()
        heads.append(head)
    assert same(*heads)


def test_a_pass_before_the_next_is_not_mixed_with_it(hebbian):
    head, optimizer = attached(hebbian)
    x = batch()[0].requires_grad_()
    for _ in range(20):
        torch.autograd.grad(head.loss(x, batch()[1]), x)
    head.loss(*batch(seed=1)).backward()
    optimizer.step()
    assert head.counts.sum() == V + 12


def test_labels_that_the_loss_does_not_have(hebbian):
    head, optimizer = attached(hebbian)
    h, y = batch((4, 6))
    logits = head(h)
    head.observe(logits, h, (y + 1) % V)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="the loss learns other labels"):
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.4),
        lambda z, y: F.cross_entropy(100 * z, y, label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z, y, weight=torch.arange(1.0, V + 1, dtype=z.dtype)),
        lambda z, y: F.multi_margin_loss(z, y),
        lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, V).to(z)),
        lambda z, y: ((1 - z.softmax(1).gather(1, y[:, None])) ** 2 * F.cross_entropy(z, y, reduction="none")).mean(),
        lambda z, y: F.cross_entropy(z, 0.7 * F.one_hot(y, V) + 0.3 * F.one_hot(y.flip(0), V).to(z)),
        lambda z, y: F.cross_entropy(z[:3], y[:3]),
    ],
)
def test_the_losses_that_people_have_pass(hebbian, loss):
    for seed in range(5):
        head, optimizer = attached(hebbian)
        h, y = batch(seed=seed)
        logits = head(5 * h)
        head.observe(logits, h, y)
        loss(logits, y).backward()
        optimizer.step()
        assert head.counts.sum() == V + len(y)


def test_two_classes_in_the_other_order():
    head = HebbianSoftmax(D, 2)
    optimizer = sgd(head)
    head.attach(optimizer)
    h, y = batch(v=2, dtype=torch.float32)
    logits = head(h)
    head.observe(logits, h, 1 - y)
    with pytest.warns(UserWarning, match="raises the logit of another class"):
        F.cross_entropy(logits, y).backward()


@pytest.mark.parametrize("what", ["add_classes", "attach", "write", "remove_classes", "all"])
def test_what_is_done_in_inference_mode_is_as_without_gradients(make, what):
    heads = []
    for mode in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(0)
        head = drawn(make(D, V, dtype=torch.float64))
        optimizer = sgd(head)
        with mode():
            if what in ("attach", "all"):
                head.attach(optimizer)
            if what in ("add_classes", "all"):
                head.add_classes(2)
            if what in ("write", "all") and hasattr(head, "write"):
                head.write(*batch())
            if what in ("remove_classes", "all"):
                head.remove_classes([1])
        if not head.attached:
            head.attach(optimizer)
        steps_of(head, optimizer, 3, lambda h, y, head=head: head.loss(h, y % head.num_classes))
        more = 2 if what in ("add_classes", "all") else 0
        clusters = {"cutoffs": head.cutoffs} if hasattr(head, "cutoffs") else {}
        fresh = make(D, head.num_classes - more, dtype=torch.float64, **clusters)
        if more:
            fresh.add_classes(more)
        fresh.load_state_dict(copy.deepcopy(head.state_dict()))
        heads.append(head)
    assert same(*heads)


@pytest.mark.filterwarnings("error")
def test_many_gradients_at_once_are_no_labels(hebbian):
    """By is_grads_batched there is no one gradient to compare with the labels, nor anything to refuse."""
    head, _ = attached(hebbian)
    h, y = batch()
    h.requires_grad_()
    logits = head(h)
    head.observe(logits, h, y)
    each = torch.eye(logits.numel(), dtype=h.dtype).view(-1, *logits.shape)
    found = torch.autograd.grad(logits, h, each, is_grads_batched=True)[0]
    torch.testing.assert_close(found.view(*logits.shape, *h.shape).sum(0)[:, 0], head.weight.detach())
