"""The heads: values against plain torch, and the write at the right moments."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engram import HebbianSoftmax, InputError, Softmax
from engram.functional import hebbian_update_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


def batch(n=12, d=5, v=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(v, (n,), generator=g)


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
@pytest.mark.parametrize("bias", [True, False])
def test_values_are_those_of_a_linear_layer(kind, bias):
    head = kind(5, 9, bias=bias)
    if bias:
        nn.init.normal_(head.bias)
    h, y = batch()
    logits = F.linear(h, head.weight, head.bias)
    torch.testing.assert_close(head(h), logits)
    torch.testing.assert_close(head.log_prob(h), logits.log_softmax(-1))
    torch.testing.assert_close(head.loss(h, y), F.cross_entropy(logits, y))
    nll = head.nll(h.view(3, 4, 5), y.view(3, 4))
    torch.testing.assert_close(nll, F.cross_entropy(logits, y, reduction="none").view(3, 4))
    assert head.in_features == 5
    assert head.num_classes == 9


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_write_follows_each_step(name):
    torch.manual_seed(1)
    head = HebbianSoftmax(5, 9, T=4, gamma=0.2)
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


def test_accumulation_writes_the_joined_batch():
    heads = [HebbianSoftmax(5, 9) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    h, y = batch(16)
    for head, parts in zip(heads, (1, 4), strict=True):
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        head.attach(optimizer)
        for part_h, part_y in zip(h.chunk(parts), y.chunk(parts), strict=True):
            (head.loss(part_h, part_y) / parts).backward()
        optimizer.step()
    torch.testing.assert_close(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].counts, heads[1].counts)


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


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_writes_nothing(fused):
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01, fused=fused)
    head.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = head.weight.detach().clone()
    h, y = batch()
    scaler.scale(head.loss(h, y) * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(head.weight, before)
    assert (head.counts == 1).all()
    optimizer.zero_grad()
    scaler.scale(head.loss(*batch(seed=3))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(head.counts, 1 + torch.bincount(batch(seed=3)[1], minlength=9)), "dropped, not deferred"


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
    head = HebbianSoftmax(8, 50)
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


def test_copies_and_saved_state():
    head = HebbianSoftmax(5, 9, T=7, gamma=0.3)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    head.loss(*batch()).backward()
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert (other.T, other.gamma) == (7, 0.3)
        other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        other.attach(other_optimizer)
        other.loss(*batch()).backward()
        other_optimizer.step()
        assert (other.counts > 1).any()
    assert (head.counts == 1).all(), "a copy's step must not write into the original"
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    buffer.seek(0)
    fresh = HebbianSoftmax(5, 9)
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(fresh.counts, head.counts)
    assert "counts" in head.state_dict()


def test_from_linear_takes_over_the_parameters():
    linear = nn.Linear(5, 9)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    head = HebbianSoftmax.from_linear(linear, counts=torch.arange(9), T=3)
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    assert head.counts.tolist() == [1, 1, 2, 3, 4, 5, 6, 7, 8]
    head.attach(optimizer)
    h, _ = batch()
    torch.testing.assert_close(head(h), linear(h))
    assert (HebbianSoftmax.from_linear(linear).counts == 1).all()
    assert (HebbianSoftmax.from_linear(linear, counts=500).counts == 500).all()
    assert Softmax.from_linear(nn.Linear(2, 3, bias=False)).bias is None
    with pytest.raises(InputError, match="expected one number, or"):
        HebbianSoftmax.from_linear(linear, counts=torch.ones(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"T": 0}, "T is 0"),
        ({"gamma": 2}, "gamma is 2"),
        ({"in_features": 0}, "in_features is 0"),
        ({"num_classes": 0}, "num_classes 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        HebbianSoftmax(**{"in_features": 5, "num_classes": 9} | arguments)


def test_bad_use_is_named():
    head = HebbianSoftmax(5, 9)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    with pytest.raises(InputError, match="does not hold this head's weight"):
        head.attach(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    head.attach(optimizer)
    with pytest.raises(InputError, match="attached to this optimizer already"):
        head.attach(optimizer)
    with pytest.raises(InputError, match="label 9; expected 0 to 8"):
        head.loss(torch.zeros(1, 5), torch.tensor([9]))
    with pytest.raises(InputError, match="label 9; expected 0 to 8"):
        head.write(torch.zeros(1, 5), torch.tensor([9]))


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_empty_batches_and_one_class(kind):
    head = kind(5, 1)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    for target in (torch.empty(0, dtype=torch.int64), torch.tensor([-100, -100])):
        loss = head.loss(torch.randn(len(target), 5, requires_grad=True), target)
        loss.backward()
        optimizer.step()
        assert loss == 0
    loss = head.loss(torch.randn(2, 5), torch.tensor([0, 0]))
    assert abs(loss.item()) < 1e-6
