"""The comparison where few classes differ, or all by the same, or none: what so few can show, and no more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from firstsight.lab.classify.judgement.compare import compare
from firstsight.lab.classify.outcome import Outcome


def outcome(seed, old, new):
    nothing = np.zeros(0)
    right = [np.asarray(part, dtype=bool) for part in (old, new)]
    return Outcome("m", "write", 5, seed, "test", right[0], nothing, nothing, right[1], nothing, nothing,
                   nothing, nothing, 0.0)  # fmt: skip


@pytest.mark.parametrize(("C", "U"), [(2, 2), (15, 6), (80, 40)])
def test_where_no_class_differs_the_bound_holds_the_truth(C, U):
    """Whatever shares p, q of classes differ, wholly: seeing none while 0.5 (p + q) is beyond the bound is below 5%."""
    one = [outcome(0, np.ones(3 * C), np.ones(2 * U))]
    y, new_y = np.repeat(np.arange(C), 3), np.repeat(np.arange(U), 2)
    bound = compare(one, one, y, new_y, np.full(C, 9), 0.5, draws=10)["mixed"]["high"]
    p, q = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    unseen = (1 - p) ** C * (1 - q) ** U
    assert unseen[0.5 * (p + q) > bound].max(initial=0) <= 0.05


def with_sides(coins_C, which="new", same=40, queries=8):
    """Classes that go wholly to ours (1), to the rival (-1) or to neither (0), and others that both answer alike."""
    y, alike_y = np.repeat(np.arange(len(coins_C)), queries), np.repeat(np.arange(same), queries)
    coins, alike = np.repeat(coins_C, queries), np.ones(len(alike_y))
    sides = [
        [outcome(0, *((alike, right) if which == "new" else (right, alike)))] for right in (coins >= 0, coins <= 0)
    ]
    old_y, new_y = (alike_y, y) if which == "new" else (y, alike_y)
    return compare(*sides, old_y, new_y, np.full(old_y.max() + 1, 30), 0.1, draws=300)


@pytest.mark.parametrize("which", ["new", "old"])
@pytest.mark.parametrize("agreeing", [0, 1, 10])
def test_it_takes_six_classes_that_all_differ_alike(which, agreeing):
    """As a sign test at 95% does, with or without others of the group that do not differ."""
    for number in range(1, 12):
        found = with_sides(np.repeat([1, 0], [number, agreeing]), which) if number + agreeing > 1 else None
        if found and number < 6:
            assert found["verdict"] == "none"
            assert found["mixed"]["low"] <= 0 < found["mixed"]["high"]
        elif found and number >= 10:
            assert found["verdict"] == "ours"
            assert 0 < found["mixed"]["low"] < found["mixed"]["difference"] <= found["mixed"]["high"]


@pytest.mark.parametrize("number", [6, 8, 15, 50])
def test_classes_that_all_differ_by_the_same_are_no_certainty(number):
    """No shorter than what Clopper and Pearson say of the share of classes that go to ours, at most 1 the other way."""
    found = with_sides(np.ones(number))
    assert found["verdict"] == "ours"
    assert found["new"]["low"] == pytest.approx(1 - stats.t.ppf(0.975, 2) / number)
    assert found["new"]["high"] == 1
    assert (found["mixed"]["low"], found["mixed"]["high"]) == pytest.approx((0.1 * found["new"]["low"], 0.1))
    assert found["new"]["low"] < stats.binomtest(number, number).proportion_ci().low


@pytest.mark.parametrize("which", ["new", "old"])
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 8, 15])
def test_classes_that_go_either_way_by_a_coin_are_seldom_a_verdict(which, number):
    """Exact: each number of heads is judged once, and counts with its chance."""
    wrong = [with_sides(np.repeat([1, -1], [k, number - k]), which)["verdict"] != "none" for k in range(number + 1)]
    chance = stats.binom.pmf(np.arange(number + 1), number, 0.5) @ wrong
    assert chance <= 0.05
    assert (chance > 0) == (number >= 6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(1, 5), which=st.sampled_from(["new", "old"]))
def test_five_classes_that_differ_by_whatever_are_no_evidence(seed, number, which):
    rng = np.random.default_rng(seed)
    y, same = np.sort(rng.integers(7, size=60)), np.ones(90)
    y[:7] = np.arange(7)
    right = (y >= number) | (rng.random(60) < 0.3)
    pairs = [(same, np.ones(60)), (same, right)] if which == "new" else [(np.ones(60), same), (right, same)]
    ys = (np.arange(90) // 3, y) if which == "new" else (y, np.arange(90) // 3)
    found = compare(*([outcome(0, *pair)] for pair in pairs), *ys, np.full(30, 30), 0.1, draws=200)
    assert found["verdict"] == "none"
