"""What every head computes, against plain torch in float64."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from contract_heads import FLAT, HEADS, D, V, batch, drawn, plain_logits, rows
from torch import nn

import firstsight.heads
from firstsight import InputError

# (relative, absolute): of the dtype of weights and activations
TOLERANCE = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 5e-2)}


def test_every_public_head_is_in_the_list():
    public = {name for name in firstsight.heads.__all__ if issubclass(getattr(firstsight.heads, name), nn.Module)}
    assert public == set(HEADS), "add the new head to contract_heads.py, so that the battery runs over it"


@pytest.mark.parametrize("shape", [(), (12,), (3, 4), (2, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_and_gradients(make, shape, bias, dtype):
    head = drawn(make(D, V, bias=bias, dtype=dtype))
    h, y = batch(shape, dtype=dtype)
    h.requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (h, *head.parameters())]
    logits = plain_logits(head, *exact)
    nll = F.cross_entropy(logits.view(-1, V), y.view(-1), reduction="none").view(shape)
    rtol, atol = TOLERANCE[dtype]

    def close(ours, reference):
        torch.testing.assert_close(ours.double(), reference, rtol=rtol, atol=atol)

    close(head(h), logits)
    close(head.log_prob(h), logits.log_softmax(-1))
    close(head.nll(h, y), nll)
    close(head.loss(h, y), nll.mean())
    grads = torch.autograd.grad(nll.mean(), exact)
    for ours, reference in zip(torch.autograd.grad(head.loss(h, y), (h, *head.parameters())), grads, strict=True):
        assert ours.dtype == dtype
        close(ours, reference)
    at_least = torch.promote_types(dtype, torch.float32)
    assert head.loss(h, y).dtype == head.nll(h, y).dtype == head.log_prob(h).dtype == at_least


@pytest.mark.parametrize("ignored", [-100, 3])
def test_ignored_tokens_do_not_count(make, ignored):
    head = make(D, V, ignore_index=ignored, dtype=torch.float64)
    h, y = batch()
    y[::3] = ignored
    kept = y != ignored
    torch.testing.assert_close(head.loss(h, y), F.cross_entropy(head(h[kept]), y[kept]))
    assert (head.nll(h, y)[~kept] == 0).all()
    (head.nll(h, y).sum()).backward()
    parameters = list(head.parameters())
    by_hand = torch.autograd.grad(F.cross_entropy(head(h[kept]), y[kept], reduction="sum"), parameters)
    for parameter, grad in zip(parameters, by_hand, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_batches_without_a_token(make):
    head = make(D, V)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    before = rows(head).detach().clone()
    for target in (torch.empty(0, dtype=torch.int64), torch.empty(2, 0, dtype=torch.int64), torch.tensor([-100, -100])):
        h = torch.randn(*target.shape, D, requires_grad=True)
        loss = head.loss(h, target)
        loss.backward()
        optimizer.step()
        assert loss == 0
        assert not h.grad.any()
        assert head.nll(h, target).shape == target.shape
    assert torch.equal(rows(head), before)


@pytest.mark.parametrize("v", [1, 70_000])
def test_one_class_and_more_than_16_bits_of_them(make, v):
    head = make(D, v, dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    h, y = batch((4,), v=v)
    y[0] = v - 1
    reference = F.cross_entropy(head(h), y)
    for _ in range(2):
        loss = head.loss(h, y)
        loss.backward()
    torch.testing.assert_close(loss, reference)
    before = head.embedding(torch.arange(v)).detach().clone()
    optimizer.step()
    changed = (head.embedding(torch.arange(v)) != before).any(1).nonzero().flatten()
    assert v == 1 or {v - 1} <= set(changed.tolist())


def test_autocast(make):
    head = make(D, V)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    h, y = batch(dtype=torch.float32)
    exact = head.loss(h, y)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(h, y)
        assert head(h).dtype == (torch.bfloat16 if make in FLAT.values() else torch.float32)
        assert head.log_prob(h).dtype == torch.float32
        loss.backward()
        optimizer.step()
    assert loss.dtype == torch.float32
    assert loss != exact, "bf16 was asked for"
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in head.parameters())


@pytest.mark.parametrize("method", ["loss", "nll"])
@pytest.mark.parametrize(
    ("h", "y", "message"),
    [
        (torch.zeros(1, D), torch.tensor([V]), "label 9; expected 0 to 8"),
        (torch.zeros(1, D), torch.tensor([-1]), "label -1; expected 0 to 8"),
        (torch.zeros(2, D), torch.tensor([0]), "same leading dimensions"),
        (torch.zeros(1, D + 1), torch.tensor([0]), r"expected hidden \[..., 5\]"),
        (torch.zeros(1, D), torch.tensor([0.0]), "torch.int64"),
        (torch.zeros(1, D, dtype=torch.int64), torch.tensor([0]), "floating point"),
    ],
)
def test_bad_tensors_are_named(make, method, h, y, message):
    with pytest.raises(InputError, match=message):
        getattr(make(D, V), method)(h, y)


def test_bad_sizes_are_named(make):
    with pytest.raises(InputError, match="in_features is 0 and num_classes 9"):
        make(0, V)
    with pytest.raises(InputError, match="num_classes 0"):
        make(D, 0)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled(make):
    head = drawn(make(D, V, dtype=torch.float64))
    head.attach(torch.optim.SGD(head.parameters(), lr=0.1))
    h, y = batch()
    torch.testing.assert_close(torch.compile(head)(h), head(h))
    losses = head.loss(h, y), torch.compile(head.loss)(h, y)
    assert losses[0] == losses[1]
    grads = [torch.autograd.grad(loss, rows(head))[0] for loss in losses]
    assert torch.equal(*grads)
