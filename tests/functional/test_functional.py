"""The write against a plain float64 loop, and the tiled loss against autograd."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import InputError
from firstsight.functional import class_means, hebbian_rate, hebbian_update_, linear_cross_entropy
from firstsight.functional.tiling import sizes


def loop_update(weight, counts, hidden, target, T, gamma, ignore_index):
    """The rule, class by class, in plain Python numbers."""
    weight, counts = weight.double().clone(), counts.clone()
    for i in set(target.tolist()) - {ignore_index}:
        rows = [hidden[n].double() for n in range(len(target)) if target[n] == i]
        mean = sum(rows[1:], start=rows[0]) / len(rows)
        c = int(counts[i])
        rate = max(1 / c, gamma) if c < T else 0.0
        if rate:
            weight[i] = rate * mean + (1 - rate) * weight[i]
        counts[i] = c + len(rows)
    return weight, counts


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 40),
    v=st.sampled_from([1, 2, 7, 50]),
    d=st.sampled_from([1, 3, 8]),
    T=st.sampled_from([1, 2, 5, 500]),
    gamma=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_update_equals_a_float64_loop(seed, n, v, d, T, gamma, ignored, dtype):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(v, d, generator=g, dtype=dtype)
    counts = torch.randint(1, 8, (v,), generator=g)
    hidden = torch.randn(n, d, generator=g, dtype=dtype)
    target = torch.randint(v, (n,), generator=g).masked_fill(torch.rand(n, generator=g) < ignored, -100)
    expected = loop_update(weight, counts, hidden, target, T, gamma, -100)
    before = weight.clone()
    untouched = [i for i in range(v) if i not in target or counts[i] >= T]
    hebbian_update_(weight, counts, hidden, target, T=T, gamma=gamma)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(weight.double(), expected[0], rtol=tolerance, atol=tolerance)
    assert torch.equal(counts, expected[1])
    assert torch.equal(weight[untouched], before[untouched]), "absent or well-known rows must stay bit for bit"


def test_update_with_very_many_classes():
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(300_000, 5, generator=g, dtype=torch.float64)
    counts = torch.ones(300_000, dtype=torch.int64)
    target = torch.tensor([299_999, 70_000, 299_999, 0, -100, 70_000, 65_536]).view(1, 7)
    hidden = torch.randn(1, 7, 5, generator=g, dtype=torch.float64)
    before = weight.clone()
    hebbian_update_(weight, counts, hidden, target, T=10, gamma=0.1)
    for i in (299_999, 70_000, 0, 65_536):
        torch.testing.assert_close(weight[i], hidden[target == i].mean(0))  # the first sight is written outright
        before[i] = weight[i]
    assert torch.equal(weight, before)
    assert counts[299_999] == 3
    assert counts.sum() == 300_000 + 6


def test_update_in_half_precision_rows_rounds_once():
    weight, counts = torch.zeros(2, 4, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    hidden = torch.randn(1000, 4)
    hebbian_update_(weight, counts, hidden, torch.ones(1000, dtype=torch.int64), T=5, gamma=0.1)
    assert torch.equal(weight[1], hidden.double().mean(0).to(torch.bfloat16))


def test_rate():
    counts = torch.tensor([1, 2, 3, 4, 5])
    torch.testing.assert_close(hebbian_rate(counts, T=5, gamma=0.3), torch.tensor([1, 0.5, 1 / 3, 0.3, 0]))


def test_class_means():
    classes, means, occurrences = class_means(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 3, 7]))
    assert classes.tolist() == [3, 7]
    assert means.tolist() == [[2.0], [2.5]]
    assert occurrences.tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1,), (13,), (3, 5), (2, 1, 4), (0,), (2, 700)]),
    v=st.sampled_from([1, 2, 33, 1500]),
    d=st.sampled_from([1, 5, 16]),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.4]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_loss_and_gradients_equal_autograd(seed, shape, v, d, bias, ignored, reduction):
    g = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(*s, generator=g, dtype=torch.float64) for s in ((*shape, d), (v, d), (v,))]
    target = torch.randint(v, shape, generator=g).masked_fill(torch.rand(shape, generator=g) < ignored, -100)
    upstream = torch.randn(shape if reduction == "none" else (), generator=g, dtype=torch.float64)

    def run(ours):
        hidden, weight, b = (leaf.clone().requires_grad_() for leaf in leaves)
        b = b if bias else None
        if ours:
            loss = linear_cross_entropy(hidden, weight, target, b, reduction=reduction)
        else:
            logits = F.linear(hidden, weight, b)
            loss = F.cross_entropy(logits.view(-1, v), target.view(-1), reduction="none").view(shape)
            if reduction != "none":
                loss = loss.sum() / (max(1, int((target >= 0).sum())) if reduction == "mean" else 1)
        loss.backward(upstream)
        return loss, hidden.grad, weight.grad, b.grad if bias else None

    for ours, reference in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("held", [2**23, 2**10])  # one pass, and two where too few rows would fit
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_many_tiles_of_odd_sizes(held, reduction, monkeypatch):
    monkeypatch.setitem(sizes.HELD, "cpu", held)
    n, v = 1133, 9001  # past every tile's rows and columns, and no multiple of either
    leaves = [torch.randn(n, 3), torch.randn(v, 3), torch.randn(v)]
    target = torch.randint(v, (n,))

    def run(loss, dtype):
        hidden, weight, bias = (leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves)
        value = loss(hidden, weight, bias)
        value.mean().backward()
        return value, hidden.grad, weight.grad, bias.grad

    ours = run(lambda h, w, b: linear_cross_entropy(h, w, target, b, reduction=reduction), torch.float32)
    reference = run(lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, reduction=reduction), torch.float64)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


def test_loss_survives_logits_that_overflow_exp():
    hidden, weight = torch.full((3, 1), 100.0), torch.tensor([[10.0], [-10.0], [9.99]])
    nll = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2]), reduction="none")
    expected = F.cross_entropy(hidden @ weight.t(), torch.tensor([0, 1, 2]), reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-4)  # float32 resolves 6e-5 at 1000


def test_bf16_products_stay_close():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(301, 64, generator=g).requires_grad_()
    weight = (torch.randn(2003, 64, generator=g) / 8).requires_grad_()
    target = torch.randint(2003, (301,), generator=g)
    exact = linear_cross_entropy(hidden, weight, target)
    exact_grads = torch.autograd.grad(exact, (hidden, weight))
    for options in ({"compute_dtype": torch.bfloat16}, {}):
        with torch.autocast("cpu", torch.bfloat16, enabled=not options):
            rough = linear_cross_entropy(hidden, weight, target, **options)
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=1e-3, atol=0)
        assert rough != exact, "bf16 was asked for"
        for ours, reference in zip(torch.autograd.grad(rough, (hidden, weight)), exact_grads, strict=True):
            assert (ours - reference).norm() < 5e-3 * reference.norm()


W, H, Y = torch.zeros(4, 3), torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": torch.tensor([0, 4])}, "label 4; expected 0 to 3"),
        ({"target": torch.tensor([-1, 2])}, "label -1; expected 0 to 3"),
        ({"target": torch.tensor([0, 1, 2])}, "same leading dimensions"),
        ({"target": torch.tensor([0.0, 1.0])}, "expected floating point and torch.int64"),
        ({"hidden": torch.zeros(2, 5)}, r"expected hidden \[..., 3\]"),
        ({"weight": torch.zeros(4)}, "expected \\[num_classes, features\\]"),
    ],
)
def test_bad_tensors_are_named(changes, message):
    good = {"hidden": H, "weight": W, "target": Y}
    with pytest.raises(InputError, match=message):
        linear_cross_entropy(**good | changes)
    with pytest.raises(InputError, match=message):
        hebbian_update_(counts=torch.ones(4, dtype=torch.int64), T=5, gamma=0.1, **good | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": 0}, "T is 0; expected a number above 0"),
        ({"T": -3}, "T is -3"),
        ({"gamma": -0.1}, "gamma is -0.1; expected a rate in"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, "one count for each row"),
        ({"counts": torch.ones(4)}, "torch.int64"),
    ],
)
def test_a_bad_rule_is_named(changes, message):
    good = {"counts": torch.ones(4, dtype=torch.int64), "T": 5, "gamma": 0.1}
    weight = W.clone()
    with pytest.raises(InputError, match=message):
        hebbian_update_(weight, hidden=H + 1, target=Y, **good | changes)
    assert torch.equal(weight, W), "nothing may be written"


def test_bad_bias_and_reduction_are_named():
    with pytest.raises(InputError, match="bias is"):
        linear_cross_entropy(H, W, Y, torch.zeros(3))
    with pytest.raises(InputError, match="reduction is 'max'"):
        linear_cross_entropy(H, W, Y, reduction="max")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("seen", [1, 9])  # a row that would be written, and one that would be counted alone
def test_an_activation_that_is_not_finite_is_not_written(bad, dtype, seen):
    weight, counts = torch.ones(4, 3, dtype=dtype), torch.full((4,), seen)
    hidden, target = torch.ones(2, 3, 3).to(dtype), torch.tensor([[0, 1, -100], [2, 2, 3]])
    hidden[0, 2] = bad  # does not count
    hebbian_update_(weight.clone(), counts.clone(), hidden, target, T=5, gamma=0.1)
    hidden[1, 0, 1] = bad
    with pytest.raises(InputError, match="of the activations that count, 1 with NaN or infinity"):
        hebbian_update_(weight, counts, hidden, target, T=5, gamma=0.1)
    assert (weight == 1).all()
    assert (counts == seen).all()


def test_activations_too_large_to_add_up_are_not_written():
    weight, counts = torch.ones(2, 3), torch.ones(2, dtype=torch.int64)
    with pytest.raises(InputError, match="some too large to add up"):
        hebbian_update_(weight, counts, torch.full((4, 3), 3e38), torch.zeros(4, dtype=torch.int64), T=5, gamma=0.1)
    assert (weight == 1).all()
    assert (counts == 1).all()
