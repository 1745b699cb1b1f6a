"""What is left out for the time, in which order, and that a plan is what it says."""

import json
import re
from dataclasses import replace

import pytest
from trial_data import small_task

from firstsight.lab.classify.methods.catalogue import METHODS
from firstsight.lab.classify.runs.plan import Plan, Units, make_plan, shots_of, timed
from firstsight.lab.classify.settings import RATES, Trial

UNITS = Units(step=0.01, writing=0.02, ask=1e-5, steps=60, rows=4000, logits=10**7, kept=20.0)


def test_with_time_enough_nothing_is_left_out():
    plan = make_plan(UNITS, Trial(), 10**6, 2)
    assert (plan.seeds, plan.rates, plan.epochs, plan.replay, plan.left_out) == (3, 3, 12, True, ())
    assert plan.methods == tuple(METHODS)
    assert "left out" not in plan.said()


def test_less_time_leaves_out_seeds_then_rates_then_epochs_then_the_dearest_rivals():
    full = make_plan(UNITS, Trial(), 10**6, 2).estimate
    plans = [make_plan(UNITS, Trial(), full * share / 100, 2) for share in range(100, 0, -1)]
    keys = [(p.seeds, p.rates, p.epochs, "logistic" in p.methods, p.replay) for p in plans]
    order = list(dict.fromkeys(keys))
    assert order == sorted(order, reverse=True)
    assert {(2, 3, 12, True, True), (1, 3, 12, True, True), (1, 1, 12, True, True), (1, 1, 6, True, True)} <= set(order)
    assert all(p.estimate <= p.budget for p in plans if p.replay)
    assert len(plans[-1].left_out) > 5


def test_what_does_not_fit_at_all_is_said():
    plan = make_plan(UNITS, Trial(), 0.001, 2)
    assert plan.estimate > plan.budget
    assert not plan.replay
    assert "nothing is left to leave out" in plan.said()
    assert "fine-tuning with replay" in plan.said()


def test_epochs_that_save_no_step_are_not_left_out():
    """A training takes its least number of steps whatever its epochs."""
    plan = make_plan(replace(UNITS, steps=4), Trial(), 0.001, 2)
    assert plan.epochs == 12
    assert not any("epochs" in what for what in plan.left_out)
    assert re.search(r"about \d+\.\d min of 0\.001, more than asked for", plan.said())


def test_a_logistic_regression_that_memory_cannot_hold_is_left_out_and_said():
    plan = make_plan(replace(UNITS, logits=10**9), Trial(), 10**6, 2)
    assert "logistic" not in plan.methods
    assert "logistic regression" in plan.said()
    assert plan.seeds == 3


def test_more_workers_take_less_time():
    one, four = (make_plan(UNITS, Trial(), 10**6, workers).estimate for workers in (1, 4))
    assert one == pytest.approx(4 * four, rel=0.01)


def test_a_plan_comes_back_from_json():
    plan = make_plan(UNITS, Trial(), 3, 2)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_without_replay_nobody_replays_and_all_else_stays():
    plan = make_plan(UNITS, Trial(), 0.001, 2)
    assert [plan.arrivals(METHODS[name]) for name in ("softmax", "sight", "knn")] == [
        ("imprinting", "epoch"),
        ("write", "epoch"),
        ("added",),
    ]


@pytest.mark.parametrize("shots", [1, 2, 5, 10])
def test_the_number_of_examples_that_is_judged_at_is_always_measured(shots):
    for arrival in ("write", "imprinting", "replay", "added", "epoch"):
        assert shots in shots_of(arrival, Trial(shots=shots))
    assert shots_of("write", Trial(shots=shots)) == (1, 2, 5, 10)


def test_every_method_with_settings_has_as_many_as_there_are_rates():
    assert {len(method.settings) for method in METHODS.values()} == {1, len(RATES)}


@pytest.mark.parametrize("body", ["none", "mlp"])
def test_units_are_timed_on_the_task(body):
    task = small_task(0)
    units = timed(task, Trial(batch=8, body=body))
    assert 0 < units.step < 1
    assert 0 < units.writing < 1
    assert 0 < units.ask < 0.1
    assert units.steps == -(-len(task.train_y) // 8)
