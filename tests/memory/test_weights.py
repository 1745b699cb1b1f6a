"""Weights of a mixture: the optimum's conditions, a grid that cannot beat it, and EM as the plain reference."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.memory import fit_weights


def some_nll(components: int, tokens: int, seed: int, *, unknown: float = 0.3) -> torch.Tensor:
    """NLLs of components that are good at different tokens; all but the first know nothing of some."""
    rng = np.random.default_rng(seed)
    nll = rng.gamma(2.0, 2.0, size=(components, tokens))
    nll[1:][rng.random((components - 1, tokens)) < unknown] = math.inf
    return torch.from_numpy(nll)


def conditions(nll_MN: torch.Tensor, weight_M: torch.Tensor) -> tuple[float, float]:
    """Mean NLL, and how far the optimum's conditions are from met, by loops over float64 numbers."""
    components, tokens = nll_MN.shape
    total, gradient = 0.0, [0.0] * components
    for t in range(tokens):
        p = [math.exp(-float(nll_MN[m, t])) for m in range(components)]
        mixed = sum(float(w) * one for w, one in zip(weight_M, p, strict=True))
        total -= math.log(mixed)
        for m in range(components):
            gradient[m] += p[m] / mixed / tokens
    over = max(g - 1 for g in gradient)
    slack = max(abs(float(w) * (g - 1)) for w, g in zip(weight_M, gradient, strict=True))
    return total / tokens, max(over, slack, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 300), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.95]))
def test_the_conditions_of_the_optimum_are_met(components, tokens, seed, unknown):
    nll = some_nll(components, tokens, seed, unknown=unknown)
    found = fit_weights(nll)
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float(found.weights.min()) >= 0
    mean, residual = conditions(nll, found.weights)
    assert found.nll == pytest.approx(mean, abs=1e-9)
    assert residual < 1e-6
    assert found.residual == pytest.approx(residual, abs=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_no_point_of_a_grid_beats_it(seed):
    nll = some_nll(3, 401, seed)
    found = fit_weights(nll)
    p = torch.exp(-nll)
    for a, b in itertools.product(range(101), repeat=2):
        if a + b <= 100:
            weight = torch.tensor([100 - a - b, a, b], dtype=torch.float64) / 100
            assert float(-(weight @ p).log().mean()) >= found.nll - 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_em_goes_to_the_same_place(seed):
    nll = some_nll(4, 500, seed)
    p, weight = torch.exp(-nll), torch.full((4,), 0.25, dtype=torch.float64)
    for _ in range(20_000):
        weight = weight * (p / (weight @ p)).mean(1)
    found = fit_weights(nll)
    assert found.nll <= float(-(weight @ p).log().mean()) + 1e-12
    torch.testing.assert_close(found.weights, weight, atol=1e-4, rtol=0)


def test_two_alike_and_one_that_is_worse_everywhere():
    good = some_nll(1, 200, 7)
    found = fit_weights(torch.cat([good, good, good + 1]))
    assert found.residual < 1e-6
    assert float(found.weights[2]) == 0
    assert found.nll == pytest.approx(float(good.mean()), abs=1e-12)


def test_likelihoods_that_are_no_float_apart():
    nll = some_nll(2, 50, 3) + 2000  # e^-2000 is 0 in float64
    assert fit_weights(nll).nll == pytest.approx(2000 + fit_weights(nll - 2000).nll)


@pytest.mark.parametrize(
    ("nll", "said"),
    [
        (torch.zeros(3), r"nll is \[3\]; expected \[M, N\]"),
        (torch.zeros(2, 0), r"one or more of each"),
        (torch.tensor([[1.0, math.inf], [2.0, math.inf]]), "token 1 has .*expected a finite NLL"),
        (torch.tensor([[1.0, math.nan], [2.0, 1.0]]), "token 1 has"),
    ],
)
def test_what_is_no_likelihood_is_refused(nll, said):
    with pytest.raises(InputError, match=said):
        fit_weights(nll)
