"""Every rule of the write against a plain loop in float64, written from its equation."""

import copy
import math
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import HebbianSoftmax, InputError
from firstsight.heads import rules
from firstsight.heads.kept.moments import RATE, RIDGE
from firstsight.heads.rules import RULES, RuleName, find_rule
from firstsight.lab.lm.config import Config

V, D, KAPPA = 7, 5, 3.0


def unit(x):
    return x / math.sqrt(sum(float(value) ** 2 for value in x))


def length(x):
    return math.sqrt(sum(float(value) ** 2 for value in x))


class Loop:
    """One class at a time, one equation a rule."""

    def __init__(self, head, name, T, gamma):
        self.name, self.T, self.gamma = name, T, gamma
        self.theta = head.weight.detach().double().numpy().copy()
        self.b = head.bias.detach().double().numpy().copy()
        self.c = head.counts.numpy().copy()
        self.past = []

    def write(self, hidden, target):
        pairs = [(h, y) for h, y in zip(hidden, target, strict=True) if y != -100]
        if pairs:
            self.past.append((np.mean([h for h, _ in pairs], 0), np.mean([np.outer(h, h) for h, _ in pairs], 0)))
            weights = [(1 - RATE) ** age for age in reversed(range(len(self.past)))]
            self.m = sum(w * mean for w, (mean, _) in zip(weights, self.past, strict=True)) / sum(weights)
            self.second = sum(w * second for w, (_, second) in zip(weights, self.past, strict=True)) / sum(weights)
        for i in sorted({int(y) for _, y in pairs}):
            mine = [h for h, y in pairs if y == i]
            if self.c[i] < self.T:
                self.move(i, np.mean(mine, axis=0), len(mine))
            self.c[i] += len(mine)

    def move(self, i, h, n):
        theta, m = self.theta[i].copy(), self.m
        rate = max(1 / self.c[i], self.gamma)
        covariance = self.second - np.outer(m, m)
        covariance = covariance + (RIDGE * np.trace(covariance) / D + np.finfo(float).tiny) * np.eye(D)
        apart = np.linalg.inv(covariance) @ (h - m)

        def turned(towards):
            if not towards.any():  # the only activation so far is the mean: no direction
                return theta
            return length(theta) * unit(rate * length(theta) * unit(towards) + (1 - rate) * theta)

        if self.name == "paper":
            new = rate * h + (1 - rate) * theta
        elif self.name == "scaled":
            new = rate * length(theta) * unit(h) + (1 - rate) * theta
        elif self.name == "direction":
            new = turned(h)
        elif self.name in ("centered", "sight"):  # which differ for classes that come later
            new = turned(h - m)
        elif self.name == "whitened":
            new = turned(apart)
        elif self.name == "additive":
            new = theta + rate * h
        elif self.name == "shrinkage":
            rate = n / (KAPPA + self.c[i] - 1 + n)
            new = (1 - rate) * theta + rate * apart
        else:
            raise AssertionError(f"no equation for {self.name}")
        if self.name == "shrinkage":
            self.b[i] -= (new @ m + new @ covariance @ new / 2) - (theta @ m + theta @ covariance @ theta / 2)
        self.theta[i] = new


def batches(rng, steps=5, ignored=True):
    for _ in range(steps):
        N = int(rng.integers(6, 13))
        target = rng.integers(0, V, N)
        if ignored:
            target[rng.random(N) < 0.2] = -100
        yield rng.normal(size=(N, D)) * 2 + 1, target


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), T=st.sampled_from([1.0, 2.0, 4.0, 1000.0]), gamma=st.sampled_from([0.0, 0.05, 1.0]))
def test_a_rule_is_its_equation(name, seed, T, gamma):
    torch.manual_seed(seed)
    head = HebbianSoftmax(D, V, T, gamma, rule=name, prior_count=KAPPA, record=True, dtype=torch.float64)
    start, loop = head.weight.detach().clone(), Loop(head, name, T, gamma)
    for hidden, target in batches(np.random.default_rng(seed)):
        head.write(torch.from_numpy(hidden), torch.from_numpy(target))
        loop.write(hidden, target)
    np.testing.assert_allclose(head.weight.detach().numpy(), loop.theta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(head.bias.detach().numpy(), loop.b, rtol=1e-7, atol=1e-7)
    assert head.counts.tolist() == loop.c.tolist()
    torch.testing.assert_close(head.written, head.weight.detach() - start)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("parts", [1, 3])
def test_training_writes_the_same_as_a_call_of_write(name, parts):
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, 4, 0.05, rule=name, prior_count=KAPPA, dtype=torch.float64)
    called = copy.deepcopy(head)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    for hidden, target in batches(np.random.default_rng(1)):
        h, y = torch.from_numpy(hidden), torch.from_numpy(target)
        for part in range(parts):
            head.loss(h[part::parts], y[part::parts]).backward()
        optimizer.step()
        optimizer.zero_grad()
        called.write(h, y)
    for (key, a), b in zip(head.state_dict().items(), called.state_dict().values(), strict=True):
        if key == "settings":  # has a clock of the steps
            continue
        own = slice(1 + D) if name == "sight" and a.shape == head.moments.shape else slice(None)  # rows are of training
        torch.testing.assert_close(a[own], b[own])


def test_a_calibrated_write_leaves_the_mean_share_of_a_class_as_it_was():
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, rule="shrinkage", prior_count=10.0, dtype=torch.float64)
    mixing, mean = torch.randn(D, D, dtype=torch.float64) / 4, torch.randn(D, dtype=torch.float64)
    hidden = torch.randn(400_000, D, dtype=torch.float64) @ mixing + mean  # what "normally distributed" promises
    target = torch.full((len(hidden),), -100)
    target[:3] = torch.tensor([0, 1, 1])

    def share():
        return (hidden @ head.weight[:2].T + head.bias[:2]).exp().mean(0).detach()

    ones = torch.cat([torch.ones(len(hidden), 1, dtype=torch.float64), hidden], 1)
    head.moments.copy_(ones.T @ ones / len(ones))
    before, rows = share(), head.weight.detach().clone()
    head.write(hidden[:3], target[:3])
    assert (head.weight.detach() - rows)[:2].norm(dim=1).min() > 0.05
    torch.testing.assert_close(share(), before, rtol=0.05, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_nothing_to_write_and_rows_without_direction_do_no_harm(name):
    head = HebbianSoftmax(D, V, rule=name, dtype=torch.float64)
    with torch.no_grad():
        head.weight[2] = 0
    before = {key: value.clone() for key, value in head.state_dict().items()}
    head.write(torch.randn(0, D, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    head.write(torch.randn(3, D, dtype=torch.float64), torch.full((3,), -100))
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key
    head.write(torch.zeros(2, D, dtype=torch.float64), torch.tensor([2, 3]))
    head.write(torch.ones(4, D, dtype=torch.float64), torch.tensor([2, 3, 3, 4]))
    assert all(bool(value.isfinite().all()) for value in head.state_dict().values())


def test_growth_keeps_the_moments_and_the_record():
    head = HebbianSoftmax(D, V, rule="whitened", record=True)
    head.write(torch.randn(9, D), torch.arange(9) % V)
    moments, written = head.moments.clone(), head.written.clone()
    head.add_classes(3)
    head.write(torch.randn(2, D), torch.tensor([V, V + 2]))
    assert torch.equal(head.written[:V], written)
    assert head.written.shape == (V + 3, D)
    assert not torch.equal(head.moments, moments)
    assert head.written[V].norm() > 0
    assert head.written[V + 1].norm() == 0


def test_a_rule_nobody_knows():
    with pytest.raises(InputError, match=r"rule is 'hebb'; expected one of paper, .*whitened"):
        HebbianSoftmax(D, V, rule="hebb")
    assert find_rule("paper") == RULES["paper"]
    with pytest.raises(InputError, match=r"prior_count is 0.*above 0"):
        HebbianSoftmax(D, V, rule="shrinkage", prior_count=0)
    with pytest.raises(InputError, match=r"shrinkage.*bias"):
        HebbianSoftmax(D, V, rule="shrinkage", bias=False)


def test_the_bias_starts_at_the_log_frequency():
    head = HebbianSoftmax(D, 3)
    head.start_bias(torch.tensor([0, 3, 5]))
    torch.testing.assert_close(head.log_prob(torch.zeros(D)).exp(), torch.tensor([1.0, 4.0, 6.0]) / 11)
    with pytest.raises(InputError, match=r"counts is \[2\]; expected \[3\]"):
        head.start_bias(torch.tensor([1, 2]))
    with pytest.raises(InputError, match="bias=True"):
        HebbianSoftmax(D, 3, bias=False).start_bias(torch.tensor([0, 3, 5]))


@pytest.mark.parametrize("name", RULES)
def test_a_linear_layer_is_taken_over_under_any_rule(name):
    linear = torch.nn.Linear(D, V)
    head = HebbianSoftmax.from_linear(linear, "new", T=4, rule=name)
    fresh = HebbianSoftmax(D, V, T=4, rule=name)
    fresh.load_state_dict(head.state_dict())
    hidden, target = torch.randn(9, D), torch.arange(9) % V
    for one in (head, fresh):
        one.write(hidden, target)
    torch.testing.assert_close(linear.weight, fresh.weight)
    assert all(value.device.type == "cpu" for value in head.state_dict().values())


def test_the_settings_know_the_same_rules():
    assert typing.get_args(typing.get_type_hints(Config)["rule"]) == tuple(RULES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.centered or rule.whitened])
def test_the_first_activation_of_all_is_the_mean_and_has_no_direction(name, dtype):
    torch.manual_seed(0)
    for _ in range(20):
        head = HebbianSoftmax(D, V, rule=name, dtype=dtype)
        before = head.weight.detach().clone()
        head.write(torch.randn(1, D, dtype=dtype), torch.tensor([2]))
        if name != "shrinkage":  # it shrinks the row towards the mean, 0
            torch.testing.assert_close(head.weight.detach(), before)


@pytest.mark.parametrize("name", RULES)
def test_a_cast_model_and_autocast_leave_the_arithmetic_alone(name):
    torch.manual_seed(0)
    one = HebbianSoftmax(D, V, rule=name).bfloat16()
    other = HebbianSoftmax(D, V, rule=name, dtype=torch.bfloat16)
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        hidden, target = torch.randn(20, D) + 3, torch.randint(0, V, (20,))
        one.write(hidden, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other.write(hidden, target)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.scaled])
def test_a_row_or_a_mean_of_length_0_leaves_the_row(name):
    head = HebbianSoftmax(D, V, rule=name, dtype=torch.float64)
    with torch.no_grad():
        head.weight[2] = 0
    before = head.weight.detach().clone()
    head.write(torch.zeros(2, D, dtype=torch.float64), torch.tensor([2, 3]))
    torch.testing.assert_close(head.weight.detach(), before, rtol=0, atol=1e-15)
    head.write(torch.randn(1, D, dtype=torch.float64), torch.tensor([2]))
    assert not head.weight[2].any()


def test_what_was_written_is_neither_lost_nor_slipped_in():
    head = HebbianSoftmax.from_linear(torch.nn.Linear(D, V), "new", rule="centered", record=True)
    head.write(torch.randn(9, D), torch.arange(9) % V)
    assert head.written.norm() > 0
    for saved, taking in ((head, HebbianSoftmax(D, V, rule="centered")), (HebbianSoftmax(D, V, rule="centered"), head)):
        with pytest.raises(RuntimeError, match=r'"written" is in the state or the head has record=True'):
            taking.load_state_dict(saved.state_dict(), strict=False)


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("rule", ["direction", "centered", "sight"])
def test_half_a_row_and_half_its_opposite_point_nowhere(rule, features):
    """What is left is rounding, whose sign would differ from machine to machine: such a row stays as it is."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        head = HebbianSoftmax(features, 2, rule=rule, T=50, gamma=0.0, dtype=torch.float64)
        row = torch.randn(features, generator=g, dtype=torch.float64)
        with torch.no_grad():
            head.weight[:] = torch.stack([row, -row])
            head.counts[:] = 2  # lambda is a half
        before = head.weight.detach().clone()
        head.write(torch.stack([-3 * row, 3 * row]) * 0.7, torch.tensor([0, 1]))
        torch.testing.assert_close(head.weight.detach(), before, rtol=1e-12, atol=0)


def test_type_checkers_know_all_rules():
    assert typing.get_args(RuleName) == tuple(RULES)
    source = Path(rules.__file__).read_text(encoding="utf-8")
    told = source.split("RuleName: TypeAlias = Literal[")[1].split("]")[0]
    assert re.findall(r'"(\w+)"', told) == list(RULES)
