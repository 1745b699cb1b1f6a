"""The comparison of two methods: against plain reference computations, on planted effects and where there is none."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from trial_fakes import make_world

from firstsight.errors import InputError
from firstsight.lab.classify.judgement.compare import compare
from firstsight.lab.classify.outcome import Outcome

PARTS = ("mixed", "new", "old", "rare")


def outcome(seed, old, new, method="m"):
    nothing = np.zeros(0)
    right = [np.asarray(part, dtype=bool) for part in (old, new)]
    return Outcome(method, "write", 5, seed, "test", right[0], nothing, nothing, right[1], nothing, nothing,
                   nothing, nothing, 0.0)  # fmt: skip


def two(world, rng, levels, seeds=3, agreement=0.9):
    """Outcomes of two methods with these shares right on old and new."""
    return [
        [outcome(seed, *world.answers(*level, rng, agreement)) for seed in range(seeds)]
        for level in levels
    ]  # fmt: skip


def judged(world, sides, share=0.1, **more):
    return compare(*sides, world.old_y, world.new_y, world.old_counts, share, **more)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_accuracies_and_differences_are_those_of_a_plain_count(rng):
    world = make_world(rng, V=30, U=12, per_new=5)
    sides = two(world, rng, [(0.8, 0.5), (0.7, 0.6)])
    found = judged(world, sides, share=0.3)
    expected = {}
    for name, side in zip(("ours", "rival"), sides, strict=True):
        old = np.mean([sum(one.old_right) / len(world.old_y) for one in side])
        new = np.mean([sum(one.new_right) / len(world.new_y) for one in side])
        is_rare = [world.old_counts[y] < 20 for y in world.old_y]
        rare = np.mean(
            [sum(r for r, k in zip(one.old_right, is_rare, strict=True) if k) / sum(is_rare) for one in side]
        )
        expected[name] = {"mixed": 0.7 * old + 0.3 * new, "new": new, "old": old, "rare": rare}
    for part in PARTS:
        for name in ("ours", "rival"):
            assert found[part][name] == pytest.approx(expected[name][part], abs=1e-12)
        assert found[part]["difference"] == pytest.approx(expected["ours"][part] - expected["rival"][part], abs=1e-12)
    assert found["old_classes"] == len(set(world.old_y))
    assert found["new_classes"] == found["new"]["classes"] == 12
    assert found["rare"]["classes"] == len({y for y in world.old_y if world.old_counts[y] < 20})


def naive_interval(ours, rival, old_y, new_y, share, draws, rng):
    """The same procedure with loops, and its degrees of freedom from the text of the method."""
    groups = []
    for which, y in (("old", old_y), ("new", new_y)):
        classes = sorted(set(y))
        rows = []
        for c in classes:
            of = [i for i, label in enumerate(y) if label == c]
            diffs = [
                sum(int(getattr(a, f"{which}_right")[i]) - int(getattr(b, f"{which}_right")[i]) for i in of)
                for a, b in zip(ours, rival, strict=True)
            ]
            rows.append((len(of), diffs))
        groups.append(rows)
    S, values = len(ours), []
    for _ in range(draws):
        seeds = [rng.integers(S) for _ in range(S)]
        parts = []
        for rows in groups:
            drawn = [rows[rng.integers(len(rows))] for _ in range(len(rows) - 1)]
            parts.append(np.mean([sum(r[1][s] for r in drawn) / sum(r[0] for r in drawn) for s in seeds]))
        values.append((1 - share) * parts[0] + share * parts[1])
    total, above, d = 0.0, 0.0, 0.0
    for weight, rows in zip((1 - share, share), groups, strict=True):
        N, C = sum(r[0] for r in rows), len(rows)
        own = sum(np.mean(r[1]) for r in rows) / N
        d += weight * own
        squares = [C / (C - 1) * (weight * (np.mean(r[1]) - own * r[0]) / N) ** 2 for r in rows]
        v = sum(squares)
        spread = C / (C - 1) * sum((q - v / C) ** 2 for q in squares)
        total, above = total + v, above + v**2 / min(2 * v**2 / spread, C - 1)
    if S > 1:
        per_seed = [
            sum(
                w * sum(r[1][s] for r in rows) / sum(r[0] for r in rows)
                for w, rows in zip((1 - share, share), groups, strict=True)
            )
            for s in range(S)
        ]
        v = np.var(per_seed, ddof=1) / S
        total, above = total + v, above + v**2 / (S - 1)
    t = stats.t.ppf(0.975, total**2 / above)
    low, high = d + (np.quantile(values, [0.025, 0.975]) - d) * t / stats.norm.ppf(0.975)
    return np.array([min(low, d - t * total**0.5), max(high, d + t * total**0.5)])


@pytest.mark.parametrize(("V", "U", "seeds", "share"), [(25, 10, 3, 0.1), (12, 30, 1, 0.5)])
def test_the_interval_is_that_of_a_plain_loop(rng, V, U, seeds, share):
    world = make_world(rng, V=V, U=U, per_new=4)
    ours, rival = two(world, rng, [(0.75, 0.5), (0.7, 0.5)], seeds=seeds)
    expected = naive_interval(ours, rival, world.old_y, world.new_y, share, 3000, rng)
    found = judged(world, (ours, rival), share=share, draws=8000)["mixed"]
    width = expected[1] - expected[0]
    assert [found["low"], found["high"]] == pytest.approx(list(expected), abs=0.06 * width)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), V=st.integers(2, 20), U=st.integers(2, 8), share=st.floats(0.05, 0.95))
def test_the_other_way_round_everything_has_the_other_sign(seed, V, U, share):
    rng = np.random.default_rng(seed)
    world = make_world(rng, V=V, U=U, per_new=3)
    sides = two(world, rng, [(0.8, 0.4), (0.6, 0.5)], seeds=2)
    found, back = judged(world, sides, share, draws=200), judged(world, sides[::-1], share, draws=200)
    for part in PARTS[:3]:
        one, other = found[part], back[part]
        assert one["difference"] == pytest.approx(-other["difference"])
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
        assert one["low"] - 1e-12 <= one["high"]
    assert {found["verdict"], back["verdict"]} in ({"none"}, {"ours", "rival"})


def test_the_order_of_queries_says_nothing(rng):
    world = make_world(rng, V=20, U=10, per_new=4)
    sides = two(world, rng, [(0.8, 0.5), (0.7, 0.4)])
    found = judged(world, sides)
    order = rng.permutation(len(world.old_y))
    moved = [[outcome(one.seed, one.old_right[order], one.new_right) for one in side] for side in sides]
    assert compare(*moved, world.old_y[order], world.new_y, world.old_counts, 0.1) == found


@pytest.mark.parametrize(("share", "bound"), [(0.1, 0.9 * 3 / 20), (0.5, 0.5 * 3 / 10), (0.9, 0.9 * 3 / 10)])
def test_equal_answers_are_no_difference_as_far_as_so_few_classes_can_show(rng, share, bound):
    """The rule of three: none of C classes differ, so up to 3 / C of those to come could."""
    world = make_world(rng, V=20, U=10)
    assert len(set(world.old_y)) == 20
    ours, _ = two(world, rng, [(0.8, 0.5), (0.8, 0.5)])
    found = judged(world, (ours, ours), share)
    assert found["verdict"] == "none"
    assert [found["mixed"][name] for name in ("difference", "low", "high")] == pytest.approx([0, -bound, bound])
    assert [found["new"][name] for name in ("difference", "low", "high")] == pytest.approx([0, -0.3, 0.3])


def with_better_classes(number, V=60):
    """All right, but that the rival misses one query of three in so many of the old classes."""
    y, new_y = np.repeat(np.arange(V), 3), np.repeat(np.arange(V, V + 20), 3)
    rival = np.ones(len(y), dtype=bool)
    rival[: 3 * number : 3] = False
    new = np.ones(len(new_y), dtype=bool)
    sides = [outcome(0, np.ones(len(y)), new)], [outcome(0, rival, new)]
    return compare(*sides, y, new_y, np.full(V, 30), 0.1)


def test_few_classes_are_no_evidence_many_are():
    """Of k classes that all differ one way, a sign test would say 2 / 2^k."""
    assert [with_better_classes(number)["verdict"] for number in (1, 2, 3, 4)] == ["none"] * 4
    assert [with_better_classes(number)["verdict"] for number in (8, 20, 60)] == ["ours"] * 3
    assert with_better_classes(3)["rare"] is None


def test_seeds_are_paired_and_what_has_no_seeds_stands_against_each(rng):
    world = make_world(rng, V=20, U=10, per_new=4)
    ours, rival = two(world, rng, [(0.8, 0.5), (0.7, 0.4)], seeds=4)
    found = judged(world, (ours, rival[1:3]))
    assert (found["seeds"], found["seeds_ours"], found["seeds_rival"]) == (2, 4, 2)
    assert found == {**judged(world, (ours[1:3], rival[1:3])), "seeds_ours": 4}
    fixed = judged(world, (ours, rival[:1]))
    assert (fixed["seeds"], fixed["seeds_rival"]) == (4, 1)
    copies = [outcome(seed, rival[0].old_right, rival[0].new_right) for seed in range(4)]
    assert judged(world, (ours, copies)) == {**fixed, "seeds_rival": 4}


def test_trainings_that_differ_widen_the_interval(rng):
    world = make_world(rng, V=60, U=20, per_new=4)
    ours, rival = two(world, rng, [(0.8, 0.5), (0.8, 0.5)], seeds=1)
    steady = judged(world, ([outcome(s, ours[0].old_right, ours[0].new_right) for s in range(3)], rival))
    levels = [(0.7, 0.4), (0.8, 0.5), (0.9, 0.6)]
    uneven = [outcome(s, *world.answers(*level, rng, 1.0)) for s, level in enumerate(levels)]
    wide = judged(world, (uneven, rival))
    assert wide["mixed"]["high"] - wide["mixed"]["low"] > 2 * (steady["mixed"]["high"] - steady["mixed"]["low"])


def test_one_class_has_no_interval(rng):
    sides = [outcome(0, [1, 1, 0, 1], [1, 0])], [outcome(0, [1, 0, 0, 1], [0, 0])]
    found = compare(*sides, np.array([0, 0, 1, 1]), np.array([2, 2]), np.array([3, 30]), 0.1)
    assert found["verdict"] == "none"
    assert found["mixed"]["low"] is None
    assert found["new"]["high"] is None
    assert found["rare"]["low"] is None
    assert found["old"]["low"] is not None
    assert found["mixed"]["difference"] == pytest.approx(0.9 * 0.25 + 0.1 * 0.5)


def test_mistakes():
    one, other = outcome(0, [1, 0], [1]), outcome(1, [1, 0], [1])
    args = (np.array([0, 1]), np.array([2]), np.array([3, 3]), 0.1)
    with pytest.raises(InputError, match="0 outcomes of ours and 1 of the rival"):
        compare([], [one], *args)
    with pytest.raises(InputError, match=r"Ours has the seeds \[0, 1\] and the rival \[2, 3\]"):
        compare([one, other], [outcome(2, [1, 0], [1]), outcome(3, [1, 0], [1])], *args)
    with pytest.raises(InputError, match="answered 3 queries of old classes; expected 2"):
        compare([one], [outcome(0, [1, 0, 1], [1])], *args)
    with pytest.raises(InputError, match="2 queries of old classes and 0 of new ones"):
        compare([one], [one], args[0], np.zeros(0, dtype=int), *args[2:])


def test_two_thousand_draws_of_eight_hundred_classes_take_a_second(rng):
    world = make_world(rng, V=800, U=80)
    sides = two(world, rng, [(0.8, 0.5), (0.8, 0.5)])
    start = time.perf_counter()
    judged(world, sides)
    assert time.perf_counter() - start < 3  # 0.4 s on two slow cores; the rest is for what else runs there


# What is planted: accuracies of ours and of the rival on old and new classes, and the verdict. 10% of queries are new.
PLANTED = {
    "ours is better on new classes": ([(0.75, 0.60), (0.75, 0.25)], "ours"),
    "the rival is better on new classes": ([(0.75, 0.25), (0.75, 0.60)], "rival"),
    "ours is worse on old classes": ([(0.70, 0.45), (0.75, 0.45)], "rival"),
}


@pytest.mark.parametrize("effect", PLANTED)
def test_a_planted_effect_is_found(effect):
    levels, verdict = PLANTED[effect]
    found = [_verdict(seed, levels) for seed in range(20)]
    assert found.count(verdict) >= 18
    assert found.count({"ours": "rival", "rival": "ours"}[verdict]) == 0


@pytest.mark.parametrize("U", [20, 80])
def test_no_difference_is_seldom_denied(U):
    """Equal methods whose answers agree on 90% of the queries: 40 data sets, each with other classes."""
    found = [_verdict(1000 + seed, [(0.75, 0.45), (0.75, 0.45)], U=U) for seed in range(40)]
    assert found.count("none") >= 37


def _verdict(seed, levels, U=80):
    rng = np.random.default_rng(seed)
    world = make_world(rng, V=400, U=U, per_new=10)
    return judged(world, two(world, rng, levels, agreement=0.95), seed=seed, draws=500)["verdict"]


def test_it_leaves_out_the_truth_about_as_often_as_it_says():
    """15 classes a group, where a plain percentile interval fails in 6 to 11%: at most 5% + 2 standard errors."""
    rng, missed, worlds = np.random.default_rng(0), 0, 300
    for _ in range(worlds):
        y, new_y = np.repeat(np.arange(15), rng.geometric(0.25, 15)), np.repeat(np.arange(15, 30), 4)
        sides = [[outcome(0, rng.random(len(y)) < rng.normal(0.6, 0.2, 15)[y],
                          rng.random(60) < rng.normal(0.5, 0.2, 15)[new_y - 15])] for _ in range(2)]  # fmt: skip
        mixed = compare(*sides, y, new_y, np.full(15, 9), 0.1, draws=400)["mixed"]
        missed += not mixed["low"] <= 0 <= mixed["high"]
    assert missed / worlds <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / worlds)
