"""The powers of logits that no maximum is taken off: as exact as with one, wherever logits lie, against float64."""

import pytest
import torch
import torch.nn.functional as F

from firstsight.functional import linear_cross_entropy
from firstsight.functional.tiling import powers, sizes

KINDS = {  # how long activations and rows are, a feature that moves all logits alike, and whether a maximum is needed
    "as a new layer's": (1.0, 0.1, 0.0, False),
    "as a trained one's": (3.0, 1.0, 0.0, False),
    "rows that were written": (30.0, 30.0, 0.0, True),
    "all far below": (1.0, 1.0, -400.0, True),
    "all far above": (1.0, 1.0, 400.0, True),
    "below, within range": (1.0, 1.0, -30.0, False),
    "tiny activations, huge rows": (2.0**-70, 2.0**68, 0.0, False),
}


def make(kind, n, v, d, ruled_out):
    g = torch.Generator().manual_seed(0)
    long_h, long_w, offset, _ = KINDS[kind]
    hidden = long_h * torch.randn(n, d, generator=g)
    weight = long_w * torch.randn(v, d, generator=g) / d**0.5
    if offset:
        hidden[:, 0], weight[:, 0] = 1.0, offset
    bias = torch.randn(v, generator=g)
    target = torch.randint(v // 2, (n,), generator=g)
    if ruled_out:
        bias[v // 2 :] = -torch.inf
    return hidden, weight, bias, target


def run(leaves, target, dtype, compute_dtype=None, **options):
    """Loss and gradients; in float64 those of torch."""
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    if dtype == torch.float64:
        z_NV = F.linear(*leaves)
        loss = F.cross_entropy(z_NV, target, **options)
    else:
        loss = linear_cross_entropy(*leaves[:2], target, *leaves[2:], compute_dtype=compute_dtype, **options)
    return [loss.detach().double(), *(grad.double() for grad in torch.autograd.grad(loss, leaves))]


@pytest.fixture
def takes_max(monkeypatch):
    """How many times a block of tokens needed its maximum."""
    calls, below_max = [], powers.Powers._below_max
    monkeypatch.setattr(powers.Powers, "_below_max", lambda *a: calls.append(1) or below_max(*a))
    return calls


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", ["no bias", "bias", "ruled out"])
@pytest.mark.parametrize("shape", [(300, 1500, 16), (131, 6001, 33)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_as_exact_as_with_a_maximum(kind, shape, bias, compute_dtype, takes_max, monkeypatch):
    monkeypatch.setitem(sizes.ONE_PASS_TILE, "cpu", (128, 1024))  # several blocks of tokens, and tiles
    *leaves, target = make(kind, *shape, ruled_out=bias == "ruled out")
    leaves = leaves[:2] if bias == "no bias" else leaves
    exact = run(leaves, target, torch.float64)
    found = run(leaves, target, torch.float32, compute_dtype)
    assert bool(takes_max) == KINDS[kind][3]
    monkeypatch.setattr(powers, "_MOST", 0.0)
    with_max = run(leaves, target, torch.float32, compute_dtype)
    luck = 1.1 if compute_dtype == torch.float32 else 1.3  # of roundings that differ
    tolerance = 1e-4 if compute_dtype == torch.float32 else 1e-2
    for name, own, other, right in zip(("loss", "hidden", "weight", "bias"), found, with_max, exact, strict=False):
        error, others_error = ((x - right).norm() for x in (own, other))
        assert error <= luck * others_error + 1e-6 * right.norm(), name
        if compute_dtype == torch.float32 or kind == "as a trained one's":
            assert error <= tolerance * right.norm(), name


def test_some_tokens_need_a_maximum(takes_max, monkeypatch):
    monkeypatch.setitem(sizes.ONE_PASS_TILE, "cpu", (128, 512))
    hidden, weight, bias, target = make("as a trained one's", 600, 700, 8, ruled_out=False)
    hidden[300] *= 200
    exact = run((hidden, weight, bias), target, torch.float64)
    for own, right in zip(run((hidden, weight, bias), target, torch.float32), exact, strict=True):
        assert (own - right).norm() <= 1e-5 * right.norm()
    assert len(takes_max) == 3, "the third block of five, and those after it"


@pytest.mark.parametrize("retain", [True, False])
def test_gradients_are_scaled_in_place_only_by_the_last_pass(retain):
    """What is kept for the backward pass may be given away by the last one alone."""
    *leaves, target = make("as a trained one's", 60, 90, 8, ruled_out=False)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    loss = linear_cross_entropy(*leaves[:2], target, leaves[2])
    passes = [torch.autograd.grad(loss, leaves, torch.tensor(3.0), retain_graph=True) for _ in range(2)]
    for grad in passes[0]:
        grad.zero_()  # as a user may
    passes.append(torch.autograd.grad(loss, leaves, torch.tensor(3.0), retain_graph=retain))
    expected = torch.autograd.grad(3 * F.cross_entropy(F.linear(*leaves[:2], leaves[2]), target), leaves)
    for one in passes[1:]:
        for own, right in zip(one, expected, strict=True):
            torch.testing.assert_close(own, right, rtol=1e-4, atol=1e-6)


def test_several_gradients_at_once():
    *leaves, target = make("as a trained one's", 20, 30, 4, ruled_out=False)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    by = torch.tensor([1.0, -2.0])
    found = torch.autograd.grad(linear_cross_entropy(*leaves[:2], target, leaves[2]), leaves, by, is_grads_batched=True)
    expected = torch.autograd.grad(F.cross_entropy(F.linear(*leaves[:2], leaves[2]), target), leaves)
    for own, right in zip(found, expected, strict=True):
        torch.testing.assert_close(own, torch.stack([right, -2 * right]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("confidence", [0.3, 0.4, 0.6])
@pytest.mark.parametrize("biased", [True, False])
def test_tokens_that_the_layer_is_sure_of(dtype, reduction, confidence, biased):
    """What is left of p - 1 is the other classes' share, and not the rounding of 1 in half precision."""
    g = torch.Generator().manual_seed(0)
    weight, target = torch.randn(3000, 64, generator=g), torch.randint(3000, (128,), generator=g)
    hidden = confidence * weight[target] + 0.05 * torch.randn(128, 64, generator=g)
    bias = torch.randn(3000, generator=g) if biased else torch.zeros(3000)
    weight, hidden = (x.to(dtype).float() for x in (weight, hidden))  # so that all that is rounded are the products

    def run(loss, kind):
        leaves = [x.to(kind).requires_grad_() for x in (hidden, weight, bias)]
        each = loss(*leaves)
        return each.detach(), torch.autograd.grad(each.mean(), leaves)

    options = {"reduction": reduction, "compute_dtype": dtype}
    each, found = run(lambda h, w, b: linear_cross_entropy(h, w, target, b, **options), torch.float32)
    exact, wanted = run(lambda h, w, b: F.cross_entropy(h @ w.t() + b, target, reduction=reduction), torch.float64)
    assert exact.mean() < 0.1
    assert (each >= 0).all()
    torch.testing.assert_close(each.double(), exact, rtol=0.05, atol=1e-9)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.double() - theirs).norm() < 0.06 * theirs.norm()
