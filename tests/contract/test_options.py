"""The loss people have, the best classes, serving and forgetting: over every head."""

import copy

import pytest
import torch
import torch.nn.functional as F
from contract_heads import FLAT, D, V, batch, drawn, plain_logits, same, step
from head_optimizers import OPTIMIZERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight import InputError


def reference(head, hidden, target, reduction="mean", offset=0.0, **options):
    logits = plain_logits(head, hidden, *head.parameters()) + offset
    return F.cross_entropy(logits.view(-1, head.num_classes), target.flatten(), reduction=reduction, **options)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.sampled_from([1, 13, 300]),
    v=st.sampled_from([2, 9, 515]),
    bias=st.booleans(),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    adjusted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_loss_is_that_of_full_logits(make, n, v, bias, weighted, smoothing, adjusted, seed):
    g = torch.Generator().manual_seed(seed)
    head = drawn(make(D, v, bias=bias, dtype=torch.float64))
    h, y = batch((n,), v=v, seed=seed)
    h.requires_grad_()
    if n > 1:
        y[0] = -100
    weight = torch.rand(v, generator=g, dtype=torch.float64) if weighted else None
    counts = torch.randint(50, (v,), generator=g)
    offset = ((counts + 1).double() / (counts + 1).sum()).log() if adjusted else 0.0
    if make not in FLAT.values():
        smoothing, adjusted, offset = 0.0, False, 0.0
    found = head.loss(h, y, weight=weight, label_smoothing=smoothing, logit_adjustment=counts if adjusted else None)
    wanted = reference(head, h, y, offset=offset, weight=weight, label_smoothing=smoothing)
    inputs = (h, *head.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_options_hold_no_matrix_of_tokens_and_classes(make):
    """Of 300 tokens and 30,000 classes it would be 36 MB."""
    head = make(8, 30_000)
    h, y = torch.randn(300, 8), torch.randint(30_000, (300,))
    largest = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    with Watch(), torch.no_grad():
        of_all = {"label_smoothing": 0.1, "logit_adjustment": torch.ones(30_000)} if make in FLAT.values() else {}
        head.loss(h, y, weight=torch.ones(30_000), **of_all)
        head.topk(h, 3)
    assert largest[0] < 300 * 30_000 / 2


def test_a_weight_of_zero_for_all_is_a_loss_of_zero(make):
    head = make(D, V)
    h, y = batch(dtype=torch.float32)
    assert head.loss(h, y, weight=torch.zeros(V)) == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_any_integer(make, dtype):
    head = make(D, V, dtype=torch.float64)
    h, y = batch()
    assert torch.equal(head.loss(h, y.to(dtype)), head.loss(h, y))
    assert torch.equal(head.nll(h, y.to(dtype)), head.nll(h, y))
    with pytest.raises(InputError, match=r"expected floating point and torch\.int64, or other whole numbers"):
        head.loss(h, y.double())


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("k", [1, 3, 2500])
def test_the_best_classes_are_those_of_full_logits(make, shape, k, monkeypatch):
    monkeypatch.setattr("firstsight.functional.tiling.largest._HELD", {"cpu": 4000})
    head = drawn(make(D, 2500, dtype=torch.float64))
    h, _ = batch(shape)
    values, classes = head.topk(h, k)
    wanted = plain_logits(head, h, *head.parameters()).topk(k)
    torch.testing.assert_close(values, wanted.values)
    assert values.shape == classes.shape == (*shape, k)
    assert torch.equal(classes, wanted.indices)
    assert not values.requires_grad


@pytest.mark.parametrize("k", [0, V + 1])
def test_no_such_number_of_classes(make, k):
    with pytest.raises(InputError, match=f"k is {k}; expected 1 to the number of classes, {V}"):
        make(D, V).topk(torch.randn(3, D), k)


@pytest.mark.parametrize("bias", [True, False])
def test_to_linear_serves_the_same_and_is_its_own(flat, bias):
    head = drawn(flat(D, V, bias=bias))
    linear = head.to_linear()
    h = torch.randn(4, D)
    torch.testing.assert_close(linear(h), head(h))
    assert type(linear) is torch.nn.Linear
    assert set(linear.state_dict()) == set(dict(head.named_parameters()))
    with torch.no_grad():
        linear.weight.zero_()
    assert head.weight.abs().sum() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_forgotten_classes_leave_the_others_as_they_were(flat, name):
    """Two steps, forget, two steps: the others go on as in a layer that never had the forgotten ones' rows."""
    head = drawn(flat(D, V, dtype=torch.float64))
    optimizer = OPTIMIZERS[name](head.parameters())
    head.attach(optimizer)
    weight = head.weight
    step(head, optimizer)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    kept = [0, 2, 3, 6, 8]
    head.remove_classes(set(range(V)) - set(kept))
    assert head.num_classes == 5
    assert head.weight is weight
    for key, value in head.state_dict().items():
        same_size, was = key in ("moments", "settings", "step"), before[key]
        if key == "moments":  # those of the activations; what the rows have to do with them is another thing now
            value, was = value[: 1 + D], was[: 1 + D]
        assert torch.equal(value, was if same_size else was[kept]), key
    for parameter in head.parameters():
        for value in optimizer.state[parameter].values():
            assert not isinstance(value, torch.Tensor) or not value.ndim or value.shape == parameter.shape
    assert step(head, optimizer).isfinite()
    assert head.state_dict()["weight"].shape == (5, D)


def test_what_is_pending_is_written_under_the_new_labels(make):
    head = make(D, V, dtype=torch.float64)
    if not hasattr(head, "counts"):
        return
    other = copy.deepcopy(head)
    h = torch.randn(3, D, dtype=torch.float64)
    for one, first in ((head, False), (other, True)):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.0)
        one.attach(optimizer)
        labels = torch.tensor([1, 5, 8])
        if first:
            one.remove_classes([1, 2])
            one.loss(h[1:], labels[1:] - 2).backward()
        else:
            one.loss(h, labels).backward()
            one.remove_classes([1, 2])
        optimizer.step()
    assert torch.equal(head.counts, other.counts)
    assert head.counts.tolist() == [1, 1, 1, 2, 1, 1, 2]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], "expected some of them, not all"),
        ([V], "expected labels from 0 to"),
        ([-1], "expected labels"),
        ([1, 1], "each once"),
        (range(V), "classes are 9 of 9"),
    ],
)
def test_classes_that_cannot_be_forgotten(make, classes, said):
    head = make(D, V)
    before = copy.deepcopy(head)
    with pytest.raises(InputError, match=said):
        head.remove_classes(classes)
    assert same(head, before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": torch.ones(V + 1)}, "the class weights are"),
        ({"weight": -torch.ones(V)}, "the class weights are"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5; expected a share"),
        ({"logit_adjustment": torch.ones(2)}, r"counts is \[2\]"),
    ],
)
def test_options_that_are_none(make, options, said):
    if make not in FLAT.values() and "weight" not in options:
        said = "are terms over all classes"
    with pytest.raises(InputError, match=said):
        make(D, V).loss(*batch(dtype=torch.float32), **options)


def test_a_head_that_counts_adjusts_by_its_own_counts(flat):
    head = flat(D, V, dtype=torch.float64)
    h, y = batch()
    if not hasattr(head, "counts"):
        with pytest.raises(InputError, match="does not count its classes"):
            head.loss(h, y, logit_adjustment=1.0)
        return
    head.write(h, y)
    seen = torch.bincount(y, minlength=V)
    twice = 2 * ((seen + 1) / (seen + 1).sum()).double().log()
    torch.testing.assert_close(head.loss(h, y, logit_adjustment=2.0), reference(head, h, y, offset=twice))
