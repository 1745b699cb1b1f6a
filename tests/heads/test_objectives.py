"""A head that writes by another inner objective: in loops, under every rule, in its state; see test_inner_step.py."""

import copy
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_rules import D, Loop, V, batches, length, unit

import firstsight
from firstsight import HebbianSampledSoftmax, HebbianSoftmax, InputError
from firstsight.functional import inner_step_
from firstsight.heads.kept.fresh import SHOWN
from firstsight.heads.kept.state import CLOCK
from firstsight.heads.rules import RULES
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.lm.config import Config
from firstsight.lab.runs.head import make_head

OBJECTIVES = ["l2", "softmax", "inner_product"]
OTHERS = OBJECTIVES[1:]
TURNING = ["direction", "centered", "sight", "whitened"]
OPTIMIZERS = {"sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3), "adam": torch.optim.Adam}


def inner_loss(objective, theta, bias, i, h):
    """Of one example, with a graph to theta [V, D]."""
    if objective == "l2":
        return (theta[i] - h).square().sum() / 2
    return F.cross_entropy(F.linear(h, theta, bias), torch.tensor(i)) if objective == "softmax" else -theta[i] @ h


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("v", "d", "n", "parts", "bias"), [(7, 5, 24, 1, True), (61, 3, 33, 3, False), (2, 1, 5, 2, True)]
)
def test_twenty_steps_are_those_of_a_plain_loop(objective, name, v, d, n, parts, bias):
    T, gamma = 12, 0.15
    torch.manual_seed(v)
    head = HebbianSoftmax(d, v, T, gamma, bias, rule="paper", objective=objective, dtype=torch.float64)
    parameters = [p.detach().clone().requires_grad_() for p in head.parameters()]
    theta, b, counts = parameters[0], parameters[1] if bias else None, [1] * v
    ours, theirs = OPTIMIZERS[name](head.parameters()), OPTIMIZERS[name](parameters)
    head.attach(ours)
    for _ in range(20):
        h, y = 2 * torch.randn(n, d, dtype=torch.float64), torch.randint(v, (n,))
        y[torch.rand(n) < 0.1] = -100
        for part in range(parts):
            (head.loss(h[part::parts], y[part::parts]) / parts).backward()
            (F.cross_entropy(F.linear(h[part::parts], theta, b), y[part::parts]) / parts).backward()
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
        after = theta.detach().clone()
        for i in set(y.tolist()) - {-100}:
            mine = h[y == i]
            loss = sum(inner_loss(objective, theta, b, i, one) for one in mine) / len(mine)
            rate = max(1 / counts[i], gamma) if counts[i] < T else 0.0
            after[i] -= rate * torch.autograd.grad(loss, theta)[0][i]
            counts[i] += len(mine)
        with torch.no_grad():
            theta.copy_(after)
    assert max(counts) > T
    assert head.counts.tolist() == counts
    for found, wanted in zip(head.parameters(), parameters, strict=True):
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shape", [(30,), (5, 7), (1,)])
def test_a_call_of_write_is_the_pure_function(objective, shape):
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, 6, 0.1, rule="paper", objective=objective, record=True)
    torch.nn.init.normal_(head.bias)
    given = head.weight.detach().clone(), head.counts.clone()
    hidden, target = torch.randn(*shape, D), torch.randint(V, shape)
    start = given[0].clone()
    for _ in range(3):
        head.write(hidden, target)
        inner_step_(*given, hidden, target, objective=objective, bias=head.bias.detach(), T=6, gamma=0.1)
    torch.testing.assert_close(head.weight.detach(), given[0])
    assert torch.equal(head.counts, given[1])
    torch.testing.assert_close(head.written, head.weight.detach() - start)


class Stepping(Loop):
    """The loop of a rule, with the step of an objective: one class at a time."""

    def __init__(self, head):
        super().__init__(head, head.rule, head.T, head.gamma)
        self.objective = head.objective

    def write(self, hidden, target):
        self.pairs, self.before = list(zip(hidden, target, strict=True)), self.theta.copy()
        super().write(hidden, target)

    def move(self, i, h, n):
        theta, m, share = self.theta[i].copy(), self.m, 1.0
        if self.objective == "softmax":
            mine = [h for h, y in self.pairs if y == i]
            logits = [self.before @ one + self.b for one in mine]
            surprises = [1 - np.exp(z[i]) / np.exp(z).sum() for z in logits]
            h = sum(g * one for g, one in zip(surprises, mine, strict=True)) / sum(surprises)
            share = sum(surprises) / n
        if self.name in ("centered", "sight", "whitened"):
            h = h - m
        if self.name == "whitened":
            covariance = self.second - np.outer(m, m)
            ridge = 0.01 * np.trace(covariance) / D + np.finfo(float).tiny
            h = np.linalg.inv(covariance + ridge * np.eye(D)) @ h
        if not h.any():
            return
        x = h if self.name == "paper" else length(theta) * unit(h)
        new = theta + max(1 / self.c[i], self.gamma) * share * x
        self.theta[i] = new if self.name == "paper" else length(theta) * unit(new)


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize("rule", ["paper", *TURNING])
def test_a_rule_says_what_is_written_and_an_objective_what_step_leads_there(rule, objective):
    for seed in range(8):
        torch.manual_seed(seed)
        head = HebbianSoftmax(D, V, 5, 0.1, rule=rule, objective=objective, dtype=torch.float64)
        torch.nn.init.normal_(head.bias)
        loop = Stepping(head)
        for hidden, target in batches(np.random.default_rng(seed)):
            head.write(torch.from_numpy(hidden), torch.from_numpy(target))
            loop.write(hidden, target)
        np.testing.assert_allclose(head.weight.detach().numpy(), loop.theta, rtol=1e-7, atol=1e-9)
        assert head.counts.tolist() == loop.c.tolist()


@pytest.mark.parametrize("objective", OTHERS)
def test_a_class_that_comes_later_is_known_as_ever(objective):
    """Only the classes that a trained layer had are written by the objective."""
    torch.manual_seed(0)
    trained = HebbianSoftmax(8, 20, dtype=torch.float64)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.05)
    handle = trained.attach(optimizer)
    means = 3 * torch.randn(22, 8, dtype=torch.float64)
    for _ in range(60):
        y = torch.randint(20, (40,))
        trained.loss(means[y] + torch.randn(40, 8), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()
    trained.T = 10**6
    heads = [trained, HebbianSoftmax(8, 20, 10**6, objective=objective, dtype=torch.float64)]
    state = trained.state_dict()
    del state["settings"]
    heads[1].load_state_dict(state)
    h, y = means[[20, 21, 3]] + torch.randn(3, 8), torch.tensor([20, 21, 3])
    for head in heads:
        head.add_classes(2)
        head.write(h, y)
        assert head.fresh[20:].tolist() == [SHOWN, SHOWN]
    l2, other = (head.weight.detach() for head in heads)
    assert torch.equal(l2[20:], other[20:])
    assert torch.equal(heads[0].bias, heads[1].bias)
    assert not torch.equal(l2[3], other[3])


@pytest.mark.parametrize("rule", ["paper", "centered"])
def test_classes_that_come_and_go_before_the_step(rule):
    """The examples of a removed class go with it, and the others are asked of the classes that there are then."""
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, rule=rule, objective="softmax", dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    h, y = torch.randn(20, D, dtype=torch.float64), torch.randint(V, (20,))
    head.loss(h[:10], y[:10]).backward()
    head.loss(h[10:], y[10:]).backward()
    head.add_classes(2)
    head.remove_classes([0, 4])
    other = HebbianSoftmax(D, V, rule=rule, objective="softmax", dtype=torch.float64)
    other.load_state_dict({**head.state_dict(), "settings": other.settings})
    optimizer.step()
    stays = (y != 0) & (y != 4)
    other.write(h[stays], y[stays] - 1 - (y[stays] > 4).long())
    torch.testing.assert_close(head.weight, other.weight, rtol=1e-12, atol=1e-12)
    assert torch.equal(head.counts, other.counts)


def test_an_example_whose_probability_is_no_number_is_left_out():
    """It is finite, and so are the rows; their product is not."""
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, rule="paper", objective="softmax")
    with torch.no_grad():
        head.weight[:2] = torch.tensor([[1e20], [-1e20]])
    other = copy.deepcopy(head)
    h, y = torch.randn(6, D), torch.tensor([2, 3, 3, 4, 5, 6])
    broken = h.clone()
    broken[1] = 1e30
    for refused, message in (
        (broken, "probability of an example is not a number"),
        (torch.full_like(h, torch.inf), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            head.write(refused, y)
        assert all(
            torch.equal(a, b) for a, b in zip(head.state_dict().values(), other.state_dict().values(), strict=True)
        )
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    out = head.weight[2:].sum()
    head.observe(out, broken, y)
    out.backward()
    with pytest.warns(UserWarning, match="left out of the write"):
        optimizer.step()
    keep = torch.arange(6) != 1
    other.write(h[keep], y[keep])
    torch.testing.assert_close(head.weight, other.weight)
    assert torch.equal(head.counts, other.counts)


def test_rows_that_are_no_numbers_are_not_spread():
    head = HebbianSoftmax(D, V, rule="paper", objective="softmax")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    head.loss(torch.randn(20, D), torch.randint(V, (20,))).backward()
    head.bias.grad[0] = torch.nan
    with pytest.warns(UserWarning, match="left out of the write"):
        optimizer.step()
    assert head.weight.isfinite().all()
    assert (head.counts == 1).all()


@pytest.mark.parametrize("objective", OTHERS)
def test_an_attached_model_writes_as_the_head(objective):
    linear = torch.nn.Linear(D, V)
    model = torch.nn.Sequential(linear)
    head = HebbianSoftmax.from_linear(copy.deepcopy(linear), "new", rule="paper", objective=objective)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, head)]
    handle = firstsight.attach(linear, optimizers[0], counts="new", rule="paper", objective=objective)
    head.attach(optimizers[1])
    for _ in range(3):
        h, y = torch.randn(20, D), torch.randint(V, (20,))
        handle.labels(y)
        F.cross_entropy(model(h), y).backward()
        head.loss(h, y).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(linear.weight, head.weight)
    handle.remove()
    again = firstsight.attach(linear, None)
    assert (again.head.rule, again.head.objective) == ("paper", objective), "it goes on as it was"


def test_the_objective_is_part_of_the_state():
    torch.manual_seed(0)
    l2, softmax = (HebbianSoftmax(D, V, rule="paper", objective=name) for name in ("l2", "softmax"))
    for saved, taking in ((l2, softmax), (softmax, l2)):
        with pytest.raises(
            RuntimeError, match=r"objective='\w+', and this head has .*objective='\w+'\. Make it with the"
        ):
            taking.load_state_dict(saved.state_dict())
    again = HebbianSoftmax(D, V, rule="paper", objective="softmax")
    again.load_state_dict(softmax.state_dict())
    assert torch.equal(again.weight, softmax.weight)
    text = bytes(int(value) for value in l2.state_dict()["settings"][len(CLOCK) :]).decode().strip()
    assert json.loads(text) == {"rule": "paper", "T": 500, "gamma": 0.01}, "a state of l2 is what it was before"


@pytest.mark.parametrize("objective", OTHERS)
def test_a_copy_writes_by_the_same(objective):
    head = HebbianSoftmax(D, V, rule="paper", objective=objective)
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    copies = [copy.deepcopy(head), torch.load(file, weights_only=False)]
    h, y = torch.randn(9, D), torch.randint(V, (9,))
    head.write(h, y)
    for one in copies:
        one.write(h, y)
        assert torch.equal(one.weight, head.weight)
    assert f"objective={objective}" in repr(head)
    assert "objective" not in repr(HebbianSoftmax(D, V))


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_it_or_says_why_not(rule, objective):
    if rule in ("paper", *TURNING):
        assert HebbianSoftmax(D, V, rule=rule, objective=objective).objective == objective
        return
    why = {"additive": "on the inner product already", "shrinkage": "posterior mean", "scaled": "feed on itself"}[rule]
    with pytest.raises(InputError, match=f"objective is '{objective}' and rule '{rule}': .*{why}.* Expected"):
        HebbianSoftmax(D, V, rule=rule, objective=objective)
    for settings in (Config, Curriculum):
        with pytest.raises(InputError, match=why):
            settings(bias=True, rule=rule, objective=objective)


def test_additive_is_the_paper_s_rule_with_the_inner_product():
    torch.manual_seed(0)
    one = HebbianSoftmax(D, V, 9, 0.1, rule="paper", objective="inner_product")
    other = HebbianSoftmax(D, V, 9, 0.1, rule="additive")
    other.load_state_dict({name: value for name, value in one.state_dict().items() if name != "settings"})
    h, y = torch.randn(30, D), torch.randint(V, (30,))
    for head in (one, other):
        head.write(h, y)
    assert torch.equal(one.weight, other.weight)


def test_what_there_is_not():
    message = "objective is 'hinge'; expected one of l2, softmax, inner_product"
    for make in (HebbianSoftmax, HebbianSampledSoftmax):
        with pytest.raises(InputError, match=message):
            make(D, V, objective="hinge")
    with pytest.raises(InputError, match="objective is 'hinge'; expected one of"):
        Config(objective="hinge")
    with pytest.raises(InputError, match=r"probability among all classes, and this head\s+samples them"):
        HebbianSampledSoftmax(D, V, rule="paper", objective="softmax")
    with pytest.raises(
        InputError, match="objective is 'softmax'; expected l2 or inner_product where classes are sampled"
    ):
        Config(objective="softmax", samples=8)


def test_a_sampled_head_has_the_inner_product():
    torch.manual_seed(0)
    sampled = HebbianSampledSoftmax(D, V, rule="paper", objective="inner_product", samples=3)
    full = HebbianSoftmax(D, V, rule="paper", objective="inner_product")
    full.load_state_dict({name: value for name, value in sampled.state_dict().items() if name != "step"})
    h, y = torch.randn(30, D), torch.randint(V, (30,))
    for head in (sampled, full):
        head.write(h, y)
    assert torch.equal(sampled.weight, full.weight)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_settings_make_the_head_that_they_name(objective):
    head = make_head(Config(rule="paper", objective=objective), D, V)
    assert (head.rule, head.objective) == ("paper", objective)
