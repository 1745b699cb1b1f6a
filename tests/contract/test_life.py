"""What every head lives through: saving, copying, growing, being attached and let go."""

import copy
import pickle

import pytest
import torch
from contract_heads import D, V, batch, drawn, rows, same, step
from torch import nn

from firstsight import InputError, Softmax
from firstsight.heads.write import HebbianWrite


def attached(head, lr=0.1):
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9)
    return optimizer, head.attach(optimizer)


def trained(make, steps=3, v=V, **options):
    head = drawn(make(D, v, dtype=torch.float64, **options))
    optimizer, _ = attached(head)
    for seed in range(steps):
        step(head, optimizer, seed)
    return head, optimizer


def test_any_loop_teaches_any_head(make):
    head = make(D, V, dtype=torch.float64)
    optimizer, _ = attached(head, lr=0.5)
    losses = [step(head, optimizer) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("bias", [True, False])
def test_saved_state(make, bias, tmp_path):
    head, _ = trained(make, bias=bias)
    torch.save(head.state_dict(), tmp_path / "state.pt")
    fresh = make(D, V, bias=bias, dtype=torch.float64)
    assert not same(fresh, head)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert same(fresh, head)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies_stand_alone(make, duplicate):
    head, optimizer = trained(make)
    optimizer.zero_grad()
    head.loss(*batch()).backward()  # a copy has no part in what is pending
    other, reference = duplicate(head), duplicate(head)
    assert same(other, head)
    other_optimizer, _ = attached(other)
    assert repr(other) == repr(head)
    step(other, other_optimizer)
    assert not same(other, reference)
    assert same(head, reference), "the step of a copy must not reach the original"
    other.add_classes(2)
    assert all(optimizer.state[one]["momentum_buffer"].shape == one.shape for one in head.parameters())
    optimizer.step()
    assert not same(head, reference), "and the original is attached still"


def test_growth(flat):
    head, optimizer = trained(flat)
    h, _ = batch()
    before, parameters = head(h), list(head.parameters())
    head.add_classes(3)
    assert [p is q for p, q in zip(head.parameters(), parameters, strict=True)]
    torch.testing.assert_close(head(h)[:, :V], before)
    bound = D**-0.5
    assert 0 < head.weight[V:].abs().max() <= bound
    assert not head.bias[V:].any()
    assert head.num_classes == V + 3
    assert f"num_classes={V + 3}" in repr(head)
    for seed in range(3):
        step(head, optimizer, seed)
    fresh = flat(D, V + 3, dtype=torch.float64)
    fresh.load_state_dict(head.state_dict(), strict=True)
    assert same(fresh, head)
    for n in (0, -1):
        with pytest.raises(InputError, match=f"n is {n}; expected 1 or more"):
            head.add_classes(n)


def test_attachment(make):
    head = make(D, V, dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    with pytest.raises(InputError, match="does not hold this head's weight"):
        head.attach(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    handle = head.attach(optimizer)
    with pytest.raises(InputError, match="attached to this optimizer already"):
        head.attach(optimizer)
    handle.remove()
    handle.remove()
    plain = copy.deepcopy(head)
    if isinstance(head, Softmax):
        plain = Softmax(D, V, dtype=torch.float64)
        plain.load_state_dict(head.state_dict(), strict=False)
    step(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    step(head, optimizer)
    pairs = zip(head.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs), "let go, it learns by gradient alone"
    head.attach(optimizer, group=False)


def test_evaluation_and_training_mode(make):
    head, optimizer = trained(make)
    h, y = batch(seed=5)
    loss, state = head.loss(h, y), copy.deepcopy(head.state_dict())
    head.eval()
    assert head.loss(h, y) == loss
    with torch.no_grad():
        head.nll(h, y), head.log_prob(h), head(h)
    optimizer.zero_grad()
    optimizer.step()  # nothing went backward: a step of nothing
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in state.items() if name != "step")
    head.train()
    step(head, optimizer, 5)
    assert not torch.equal(rows(head), next(iter(state.values())))


def test_meta_device(make):
    with torch.device("meta"):
        head = make(D, V)
    assert rows(head).device.type == "meta"
    assert head(torch.empty(2, D, device="meta")).shape == (2, V)
    head.to_empty(device="cpu")
    torch.manual_seed(1)
    head.reset_parameters()
    torch.manual_seed(1)
    assert same(head, make(D, V))
    source, _ = trained(make)
    head = make(D, V, device="meta")
    head.load_state_dict(source.state_dict(), assign=True)
    assert same(head, source)
    optimizer, _ = attached(head)
    step(head, optimizer)


@pytest.mark.parametrize("bias", [True, False])
def test_taking_over_a_linear_layer(flat, bias):
    linear = nn.Linear(D, V, bias=bias, dtype=torch.float64)
    head = flat.from_linear(linear, **({"counts": "new"} if issubclass(flat, HebbianWrite) else {}))
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    h, _ = batch()
    assert torch.equal(head(h), linear(h))
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    head.attach(optimizer)
    step(head, optimizer)
    assert torch.equal(head(h), linear(h))
