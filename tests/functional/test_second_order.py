"""Gradients of the loss's gradients, against ``F.cross_entropy`` on all logits in float64."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from firstsight.functional import linear_cross_entropy
from firstsight.functional.tiling import sizes

REDUCTIONS = ["mean", "sum", "none"]


def make(seed, n, v, d, bias=True):
    g = torch.Generator().manual_seed(seed)
    hidden, weight, b = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((n, d), (v, d), (v,)))
    target = torch.randint(v, (n,), generator=g).masked_fill(torch.rand(n, generator=g) < 0.3, -100)
    target[0] = 0  # one counts
    return (hidden, weight, b) if bias else (hidden, weight), target


def plain(hidden, weight, target, bias=None, *, class_weight=None, **options):
    return F.cross_entropy(F.linear(hidden, weight, bias), target, class_weight, **options)


def penalised(loss, leaves, target, wrt, options):
    """The gradients of a loss and of the squared norms of its gradients, those in ``wrt``."""
    hidden, *rows = leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    hidden = hidden.tanh()  # not a leaf
    value = loss(hidden, rows[0], target, *rows[1:], **options)
    scalar = (value * torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).view(value.shape)).sum()
    grads = torch.autograd.grad(scalar, [[hidden, *rows][i] for i in wrt], create_graph=True)
    (scalar + sum((grad.square() * (i + 1)).sum() for i, grad in enumerate(grads))).backward()
    return scalar, *grads, *(leaf.grad for leaf in leaves)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=[2**23, 2**6], ids=["one pass", "two passes"])
def _passes(request, monkeypatch):
    monkeypatch.setitem(sizes.HELD, "cpu", request.param)


def test_the_second_derivative_by_one_number():
    """It was silently that of a loss whose gradient by the activation is a constant: -1.5102."""
    found = []
    for loss in (linear_cross_entropy, plain):
        a = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
        weight, target = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([0])
        value = loss(a.square(), weight, target)
        (grad,) = torch.autograd.grad(value, a, create_graph=True)
        grad.backward()
        found.append(a.grad.item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx(-0.5701, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 3, 13]),
    v=st.sampled_from([1, 2, 7, 530]),
    d=st.sampled_from([1, 5]),
    bias=st.booleans(),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(REDUCTIONS),
    wrt=st.sampled_from([[0], [1], [0, 1], [-1]]),
)
def test_penalties(seed, n, v, d, bias, weighted, smoothing, reduction, wrt):
    leaves, target = make(seed, n, v, d, bias)
    class_weight = torch.rand(v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    options = {"reduction": reduction, "label_smoothing": smoothing}
    options["class_weight"] = class_weight if weighted else None
    assert_same(*(penalised(loss, leaves, target, wrt, options) for loss in (linear_cross_entropy, plain)))


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("wrt", [[0], [1, 2], [0, 1, 2]])
def test_penalties_in_both_ways(reduction, smoothing, wrt):
    leaves, target = make(0, 11, 9, 4)
    options = {"reduction": reduction, "label_smoothing": smoothing, "class_weight": torch.rand(9).double() + 0.1}
    assert_same(*(penalised(loss, leaves, target, wrt, options) for loss in (linear_cross_entropy, plain)))


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian(vectorize):
    leaves, target = make(1, 5, 4, 3)

    def hessian(loss):
        def of(hidden, weight, bias):
            return loss(hidden, weight, target, bias, label_smoothing=0.1)

        found = torch.autograd.functional.hessian(of, leaves, vectorize=vectorize)
        return [block for row in found for block in row]

    assert_same(hessian(linear_cross_entropy), hessian(plain))


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_thirds_and_the_incoming_gradient(reduction):
    """gradgradcheck: also of what arrives from above, and of gradients once more."""
    leaves, target = make(2, 3, 4, 2)
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def loss(h, w, b):
        return linear_cross_entropy(h, w, target, b, reduction=reduction)

    def slope(h, w, b):
        value = loss(h, w, b).square().sum()  # the incoming gradient depends on the inputs
        return torch.autograd.grad(value, (h, w, b), create_graph=True)

    assert torch.autograd.gradgradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(slope, leaves)


def test_rows_and_activations_made_of_one_another():
    """A shared embedding: the loss's gradient for the rows must not hold that by way of the activations."""
    (_, table), target = make(3, 6, 6, 6, bias=False)
    found = []
    for loss in (linear_cross_entropy, plain):
        rows = table.clone().requires_grad_()
        value = loss(rows.tanh() @ rows, rows, target)
        (grad,) = torch.autograd.grad(value, rows, create_graph=True)
        found.append((grad, *torch.autograd.grad(grad.square().sum(), rows)))
    assert_same(*found)


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient(frozen):
    leaves, target = make(4, 6, 5, 3)
    found = []
    for loss in (linear_cross_entropy, plain):
        given = [leaf.clone().requires_grad_(i != frozen) for i, leaf in enumerate(leaves)]
        asked = [leaf for leaf in given if leaf.requires_grad]
        grads = torch.autograd.grad(loss(given[0], given[1], target, given[2]), asked, create_graph=True)
        found.append(torch.autograd.grad(sum(grad.square().sum() for grad in grads), asked))
    assert_same(*found)


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("way", ["compiled", "recomputed"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_or_recomputed(way, reduction):
    """A compiler that traces the backward pass once would take it for that of gradients without a graph."""

    def recomputed(*given, **options):
        return checkpoint(linear_cross_entropy, *given, use_reentrant=False, **options)

    leaves, target = make(8, 6, 5, 3)
    ours = recomputed if way == "recomputed" else torch.compile(linear_cross_entropy, backend="eager")
    found = (penalised(loss, leaves, target, [0, 1, 2], {"reduction": reduction}) for loss in (ours, plain))
    assert_same(*found)


def test_under_autocast_it_stays_close():
    leaves, target = make(5, 40, 30, 8)
    leaves = [leaf.float() for leaf in leaves]
    exact = penalised(linear_cross_entropy, leaves, target, [0, 1], {})
    with torch.autocast("cpu", torch.bfloat16):
        rough = penalised(linear_cross_entropy, leaves, target, [0, 1], {})
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() < 2e-2 * b.norm()


def test_rows_may_change_before_an_ordinary_backward_but_not_before_one_with_a_graph():
    (hidden, weight, bias), target = make(6, 6, 5, 3)
    given = [leaf.requires_grad_() for leaf in (hidden, weight, bias)]
    expected = torch.autograd.grad(plain(hidden, weight, target, bias), given)
    for name, changed in (("weight", weight), ("bias", bias)):
        value = linear_cross_entropy(hidden, weight, target, bias)
        with torch.no_grad():
            changed.mul_(1)
        assert_same(torch.autograd.grad(value, given, retain_graph=True), expected)
        with pytest.raises(RuntimeError, match=f"modified by an inplace operation: the {name} of linear_cross_entropy"):
            torch.autograd.grad(value, given, create_graph=True)


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("order", ["forward", "backward", "twice"])
def test_nothing_holds_on_to_the_input(order):
    """By counts of references alone: no circle."""
    (hidden, weight, bias), target = make(7, 6, 5, 3)
    given = [leaf.clone().requires_grad_() for leaf in (hidden, weight, bias)]
    died = [weakref.ref(leaf) for leaf in given]
    value = linear_cross_entropy(given[0], given[1], target, given[2])
    if order == "backward":
        value.backward()
    if order == "twice":
        grads = torch.autograd.grad(value, given, create_graph=True)
        more = torch.autograd.grad(sum(grad.square().sum() for grad in grads), given)
        del grads, more
    del value, given
    assert [ref() for ref in died] == [None] * 3
