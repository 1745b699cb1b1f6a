"""float16 under the scale of a loss: no more of the gradients may vanish, or be off, than with torch's own path."""

import pytest
import torch
import torch.nn.functional as F

from firstsight.functional import linear_cross_entropy
from firstsight.functional.tiling import sizes

SCALE = 2.0**16
N, V, D = 300, 1500, 16


def make(peaked, small=1.0):
    """Activations and rows: of predictions that are nearly flat, or so sure that most probabilities are tiny."""
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=g) for s in ((N, D), (V, D), (V,)))
    hidden = hidden * torch.logspace(0, -4, D) * small  # some features are far smaller than others
    target = torch.randint(20, (N,), generator=g)  # most classes get nothing but their probabilities
    return [hidden, weight * (4.0 if peaked else 0.1), bias * (4.0 if peaked else 0.1)], target


def gradients(leaves, dtypes, loss):
    leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf, dtype in zip(leaves, dtypes, strict=True)]
    (loss(*leaves) * SCALE).backward()
    return [leaf.grad for leaf in leaves]


KINDS = {
    "all float16": ([torch.float16] * 3, False),
    "float16 activations": ([torch.float16, torch.float32, torch.float32], False),
    "float16 rows": ([torch.float32, torch.float16, torch.float16], False),
    "autocast": ([torch.float32] * 3, True),
}


@pytest.mark.parametrize("held", [2**23, 2**10], ids=["one pass", "two passes"])
@pytest.mark.parametrize("peaked", [False, True], ids=["flat", "peaked"])
@pytest.mark.parametrize("small", [1.0, 2.0**-10])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_what_vanishes(kind, peaked, small, smoothing, held, monkeypatch):
    monkeypatch.setitem(sizes.HELD, "cpu", held)
    monkeypatch.setitem(sizes.ONE_PASS_TILE, "cpu", (280, 1024))
    leaves, target = make(peaked, small)
    dtypes, autocast = KINDS[kind]

    def ours(h, w, b):
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            return linear_cross_entropy(h, w, target, b, label_smoothing=smoothing)

    def torchs(h, w, b):
        half = torch.float16 in dtypes and not autocast
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            z = F.linear(*(x.half() for x in (h, w, b))) if half else F.linear(h, w, b)
        return F.cross_entropy(z.float(), target, label_smoothing=smoothing)

    def right(h, w, b):
        return F.cross_entropy(F.linear(h, w, b), target, label_smoothing=smoothing)

    rounded = [leaf.to(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    found = [gradients(leaves, dtypes, loss) for loss in (ours, torchs)]
    for own, plain, exact in zip(*found, gradients(rounded, [torch.float64] * 3, right), strict=True):
        assert own.isfinite().all()
        zeros = [int((grad == 0).sum()) for grad in (own, plain, exact.to(own.dtype))]
        assert zeros[0] <= max(zeros[1:]) + 5
        error, torchs_error = ((grad.double() - exact).norm() for grad in (own, plain))
        assert error <= 1.25 * torchs_error + 1e-6 * exact.norm()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("size", [2.0**-20, 1.0, 2.0**7])
def test_no_product_overflows(size, reduction):
    """All tokens have one class, and sums of as many products as there are tokens are no float16."""
    hidden = torch.full((2000, 4), size).half().requires_grad_()
    weight = torch.zeros(700, 4).half()
    weight[1] = -100 / size if size >= 1 else 0
    weight = weight.requires_grad_()
    value = linear_cross_entropy(hidden, weight, torch.ones(2000, dtype=torch.int64), reduction=reduction).mean()
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    reference = F.cross_entropy(F.linear(*exact), torch.ones(2000, dtype=torch.int64))
    found = torch.autograd.grad(value * 64, (hidden, weight))
    for own, right in zip(found, torch.autograd.grad(reference * 64, exact), strict=True):
        torch.testing.assert_close(own.double(), right, rtol=2e-3, atol=1e-7)


def test_bfloat16_gradients_are_kept_in_bfloat16():
    """It has the range of float32, so nothing is to be gained by room for twice as much."""
    sizes = []
    for dtype in (torch.bfloat16, torch.float16):
        hidden, weight = (torch.randn(*s).to(dtype).requires_grad_() for s in ((30, 4), (50, 4)))
        node = linear_cross_entropy(hidden, weight, torch.zeros(30, dtype=torch.int64), reduction="sum").grad_fn
        sizes.append({t.dtype for t in node.saved_tensors if t is not None and t.shape == weight.shape})
    assert sizes == [{torch.bfloat16}, {torch.float32}]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_backward_pass_under_autocast_is_that_of_its_forward_pass(dtype, reduction):
    leaves, target = make(peaked=True)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = linear_cross_entropy(*leaves[:2], target, leaves[2], reduction=reduction, label_smoothing=0.1).mean()
    exact = torch.autograd.grad(value, leaves, retain_graph=True)
    with torch.autocast("cpu", dtype):
        assert all(map(torch.equal, torch.autograd.grad(value, leaves), exact))
