"""The loss where classes are ruled out, by -inf or the lowest number, against ``F.cross_entropy``."""

import pytest
import torch
import torch.nn.functional as F

from firstsight.functional import linear_cross_entropy
from firstsight.functional.tiling import sizes

LOWEST = torch.finfo(torch.float32).min
N, V, D = 1120, 600, 8  # the first tile of classes is 512
REDUCTIONS = ["mean", "none"]


def make(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=g).to(dtype) for s in ((N, D), (V, D), (V,))]


def run(loss, leaves, dtype):
    leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
    value = loss(*leaves)
    value.sum().backward()
    return value.detach(), *(leaf.grad.float() for leaf in leaves)


def compare(leaves, target, tolerance=1e-4, compute_dtype=None, **options):
    def ours(h, w, b):
        return linear_cross_entropy(h, w, target, b, compute_dtype=compute_dtype, **options)

    found = run(ours, leaves, leaves[0].dtype)
    expected = run(lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, **options), leaves, torch.float32)
    assert not any(x.isnan().any() for x in expected), "a test of nothing"
    for a, b in zip(found, expected, strict=True):
        atol = tolerance * (len(target) if options["reduction"] == "none" and a is not found[0] else 1)
        a = torch.where((b == torch.inf) & (a > 1e36), b, a)  # torch's own sum may overflow where ours does not
        torch.testing.assert_close(a, b, rtol=tolerance, atol=atol / 10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("by", [-torch.inf, LOWEST])
@pytest.mark.parametrize("out", [slice(0, 512), slice(0, 599), slice(88, 600), slice(256, 400)], ids=str)
def test_a_tile_of_classes(by, out, reduction):
    hidden, weight, bias = make()
    bias[out] = by
    target = torch.full((N,), next(v for v in (599, 0) if bias[v] > -100))
    compare((hidden, weight, bias), target, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("held", [2**23, 2**10])
def test_in_evaluation(reduction, held, monkeypatch):
    """Without a gradient the loss takes two passes."""
    monkeypatch.setitem(sizes.HELD, "cpu", held)
    hidden, weight, bias = make()
    bias[:512] = -torch.inf
    target, nll = torch.full((N,), 599), torch.empty(N)
    found = linear_cross_entropy(hidden, weight, target, bias, reduction=reduction, nll_out=nll)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), target, reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected.mean() if reduction == "mean" else expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("by", [-torch.inf, LOWEST])
def test_the_target_itself(by, reduction, smoothing):
    hidden, weight, bias = make()
    bias[:512] = by
    target = torch.arange(N) % V
    compare((hidden, weight, bias), target, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("by", "but"), [(LOWEST, LOWEST), (0.0, -LOWEST), (LOWEST, -LOWEST)])
def test_biases_at_the_ends_of_the_range(by, but, reduction):
    """All classes ruled out alike, or one that always wins: log2(e) times as much is no float32."""
    hidden, weight, _ = make()
    bias, target = torch.full((V,), by), torch.full((N,), 7)
    bias[7] = but
    # Biases all alike change nothing; for torch, in float32, nothing but them is left.
    exact = F.cross_entropy(F.linear(hidden, weight, None if by == but else bias), target, reduction="none")
    found = linear_cross_entropy(hidden, weight, target, bias, reduction="none")
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    leaves = [leaf.requires_grad_() for leaf in (hidden, weight, bias)]
    value = linear_cross_entropy(hidden, weight, target, bias, reduction=reduction)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(value.sum(), leaves))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [-1e38, LOWEST, -torch.inf])
def test_by_their_rows(scale, reduction):
    """Rows that are far out along a feature that is 5 in all activations."""
    hidden, weight, bias = make()
    hidden[:, 0] = 5
    weight[:, 0] = 0
    weight[:512, 0] = scale
    target = torch.full((N,), 599)
    if scale > -torch.inf:
        leaves = [leaf.requires_grad_() for leaf in (hidden, weight, bias)]
        value = linear_cross_entropy(hidden, weight, target, bias, reduction=reduction)
        plain = F.cross_entropy(F.linear(hidden, weight, bias), target, reduction=reduction)
        found, expected = (torch.autograd.grad(x.sum(), leaves) for x in (value, plain))
        for a, b in zip((value, *found), (plain, *expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        found = linear_cross_entropy(hidden, weight, target, bias, reduction=reduction)
        expected = F.cross_entropy(F.linear(hidden, weight, bias), target, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("by", [-torch.inf, torch.finfo(torch.float16).min])
def test_in_float16(by, reduction):
    hidden, weight, bias = make(torch.float16)
    bias[:512] = by
    target = torch.full((N,), 599)
    compare((hidden, weight, bias), target, 1e-2, reduction=reduction)
    leaves = [leaf.float() for leaf in (hidden, weight, bias)]
    leaves[2][:512] = LOWEST if by > -torch.inf else by
    compare(leaves, target, 1e-2, torch.float16, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", [-60000.0, 60000.0])
def test_logits_near_the_end_of_float16(size, reduction):
    """They are no float16 once they are multiplied by log2(e)."""
    hidden, target = torch.ones(5, 1).half().requires_grad_(), torch.tensor([0, 2, 0, 2, 0])
    weight = torch.tensor([[size], [size - 32 * 40], [size], [size - 32 * 30]]).half().requires_grad_()
    value = linear_cross_entropy(hidden, weight, target, reduction=reduction)
    expected = F.cross_entropy(F.linear(hidden, weight).float(), target, reduction=reduction)
    torch.testing.assert_close(value, expected, rtol=0, atol=5e-3)  # float32 resolves 4e-3 at 60000
    found, exact = (torch.autograd.grad(x.sum(), (hidden, weight)) for x in (value, expected))
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=32)  # as float16 resolves 32


def test_tokens_that_have_no_class_left_are_nan_as_with_torch():
    hidden, weight, _ = make()
    found = linear_cross_entropy(hidden, weight, torch.zeros(N, dtype=torch.int64), torch.full((V,), -torch.inf))
    assert found.isnan()
