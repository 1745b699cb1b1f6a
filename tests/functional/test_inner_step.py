"""Each inner objective against autograd on its inner loss, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import InputError
from firstsight.functional import hebbian_update_, inner_step_
from firstsight.functional.inner_step import surprise

OBJECTIVES = ["l2", "softmax", "inner_product"]


def by_autograd(weight, bias, counts, hidden, target, objective, T, gamma):
    """Rows and counts after one gradient step a class, each on the mean of its own examples' losses."""
    theta, counts = weight.detach().clone().requires_grad_(), counts.clone()
    hidden, target = hidden.reshape(-1, hidden.shape[-1]), target.flatten()
    rows = theta.detach().clone()
    for i in sorted(set(target.tolist()) - {-100}):
        losses = []
        for h in hidden[target == i]:
            if objective == "l2":
                losses.append((theta[i] - h).square().sum() / 2)
            elif objective == "softmax":
                losses.append(F.cross_entropy(F.linear(h, theta, bias), torch.tensor(i)))
            else:
                losses.append(-theta[i] @ h)
        c = int(counts[i])
        if c < T:
            gradient = torch.autograd.grad(sum(losses) / len(losses), theta)[0]
            rows[i] -= max(1 / c, gamma) * gradient[i]
        counts[i] = c + len(losses)
    return rows, counts


def drawn(seed, shape, v, d, biased, ignored=0.2):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(v, d, generator=g, dtype=torch.float64)
    bias = 2 * torch.randn(v, generator=g, dtype=torch.float64) if biased else None
    counts = torch.randint(1, 8, (v,), generator=g)
    hidden = 2 * torch.randn(*shape, d, generator=g, dtype=torch.float64)
    target = torch.randint(v, shape, generator=g).masked_fill(torch.rand(shape, generator=g) < ignored, -100)
    return weight, bias, counts, hidden, target


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(0,), (1,), (12,), (57,), (3, 5)]),
    v=st.sampled_from([1, 2, 7, 61]),
    d=st.sampled_from([1, 3, 8]),
    T=st.sampled_from([1, 3, 500]),
    gamma=st.sampled_from([0.0, 0.3, 1.0]),
    biased=st.booleans(),
)
def test_an_objective_is_a_gradient_step_on_its_loss(objective, seed, shape, v, d, T, gamma, biased):
    weight, bias, counts, hidden, target = drawn(seed, shape, v, d, biased)
    rows, after = by_autograd(weight, bias, counts, hidden, target, objective, T, gamma)
    before = weight.clone()
    still = [i for i in range(v) if i not in target or counts[i] >= T]
    inner_step_(weight, counts, hidden, target, objective=objective, bias=bias, T=T, gamma=gamma)
    torch.testing.assert_close(weight, rows, rtol=1e-11, atol=1e-11)
    assert torch.equal(counts, after)
    assert torch.equal(weight[still], before[still]), "absent or well-known rows must stay bit for bit"


def test_l2_is_the_rule_of_the_paper_bit_for_bit():
    weight, _, counts, hidden, target = drawn(0, (40,), 9, 5, False)
    other, others = weight.clone(), counts.clone()
    inner_step_(weight, counts, hidden, target, objective="l2", T=6, gamma=0.1)
    hebbian_update_(other, others, hidden, target, T=6, gamma=0.1)
    assert torch.equal(weight, other)
    assert torch.equal(counts, others)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("autocast", [False, True])
def test_rows_of_half_precision_round_once(objective, autocast):
    """And autocast does not reach the arithmetic."""
    weight, bias, counts, hidden, target = (
        x if x.dtype == torch.int64 else x.float() for x in drawn(1, (40,), 9, 5, True)
    )
    half = weight.bfloat16()
    rows, _ = by_autograd(half.double(), bias.double(), counts, hidden.double(), target, objective, 6, 0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        inner_step_(half, counts, hidden, target, objective=objective, bias=bias, T=6, gamma=0.1)
    torch.testing.assert_close(half.double(), rows.bfloat16().double(), rtol=2**-8, atol=0)
    assert (half.double() - rows.bfloat16().double()).abs().count_nonzero() <= 2, "rounds but once"


def test_a_class_ruled_out_is_as_surprising_as_can_be():
    weight, bias, counts, hidden, target = drawn(2, (6,), 4, 3, True, ignored=0.0)
    bias[int(target[0])] = -torch.inf
    rows, _ = by_autograd(weight, torch.where(bias.isinf(), -1e30, bias), counts, hidden, target, "softmax", 500, 0.1)
    inner_step_(weight, counts, hidden, target, objective="softmax", bias=bias, T=500, gamma=0.1)
    torch.testing.assert_close(weight, rows)


def test_surprise_is_exact_at_both_ends():
    nll = torch.tensor([0.0, -1e-9, 1e-30, 1e-9, 1.0, 800.0, torch.inf], dtype=torch.float64)
    found = surprise(nll)
    assert found[[0, 1]].tolist() == [0, 0], "rounding can make a log probability more than 0"
    torch.testing.assert_close(found[2:4], nll[2:4], rtol=1e-8, atol=0)
    assert found[4:].tolist() == [1 - 1 / torch.e, 1, 1]


def test_softmax_holds_no_matrix_of_tokens_and_classes():
    """Of 300 tokens and 30,000 classes it would be 36 MB."""
    largest = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    counts = torch.ones(30_000, dtype=torch.int64)
    given = torch.randn(30_000, 8), counts, torch.randn(300, 8), torch.randint(30_000, (300,))
    with Watch():
        inner_step_(*given, objective="softmax", T=9, gamma=0.0)
    assert largest[0] < 300 * 30_000 / 2


def _nan_hidden(given):
    given["hidden"][0, 0] = torch.nan


def _nan_row(given):
    given["weight"][1] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan_hidden, "NaN or infinity"),
        (_nan_row, "the probability of an example is not a number"),
        (
            lambda given: given.update(objective="hinge"),
            "objective is 'hinge'; expected one of l2, softmax, inner_product",
        ),
        (lambda given: given["target"].fill_(9), "target holds the label 9"),
        (lambda given: given.update(T=0), "T is 0"),
        (lambda given: given.update(bias=torch.zeros(3)), r"bias is \[3\]; expected \[4\]"),
        (lambda given: given.update(hidden=torch.randn(5, 3)), r"hidden is \[5, 3\]"),
    ],
)
def test_bad_input(change, message):
    weight, bias, counts, hidden, target = drawn(3, (6,), 4, 3, True, ignored=0.0)
    given = {"weight": weight, "counts": counts, "hidden": hidden, "target": target}
    given |= {"objective": "softmax", "bias": bias, "T": 5, "gamma": 0.1}
    change(given)
    before = copy.deepcopy(given)
    with pytest.raises(InputError, match=message):
        inner_step_(**given)
    for name in ("weight", "counts"):
        torch.testing.assert_close(given[name], before[name], rtol=0, atol=0, equal_nan=True)
