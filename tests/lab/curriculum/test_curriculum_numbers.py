"""Numbers of curricula against references that count from the words of the docstrings; all runs here are made up."""

import itertools
import json
import math

import numpy as np
import pytest
from curriculum_fakes import MILESTONES, addition, bound, learner, made_up, oldest
from curriculum_runs import TINY, run
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.lab.curriculum import Curriculum, numbers
from firstsight.lab.curriculum.binding import PRESENTATIONS
from firstsight.lab.curriculum.summary import Panel, summarise

SHORT = {"rel": 6e-5, "abs": 1e-12}  # numbers are kept to 5 digits


def near(values):
    return [None if value is None else pytest.approx(value, **SHORT) for value in values]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.sampled_from(["addition", "check", "oldest"]))),
    st.lists(st.integers(0, 90)).map(sorted),
)
def test_classes_at_a_step_are_the_most_that_had_come_by_it(start, moves, steps):
    records, step, classes = [], 0, start
    for later, more, event in moves:  # several additions at one step too
        step, classes = step + later, classes + more * (event == "addition")
        records.append({"event": event, "step": step, "classes": classes})
    expected = []
    for at in steps:
        come = [r["classes"] for r in records if r["event"] == "addition" and r["step"] <= at]
        expected.append(max([start, *come]))
    assert numbers.classes_at({"settings": {"start": start}, "records": records}, steps) == expected


VALUES = st.one_of(st.just(math.nan), st.floats(-500, 500).map(lambda x: round(x, 2)))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6).flatmap(lambda k: st.lists(st.lists(VALUES, min_size=k, max_size=k), min_size=1, max_size=7)))
def test_a_band_is_numpys_mean_and_deviation_of_what_is_there(rows):
    found = numbers.band(rows)
    assert list(found) == ["mean", "deviation"]
    assert len(found["mean"]) == len(found["deviation"]) == len(rows[0])
    for at, column in enumerate(np.array(rows).T):
        kept = column[~np.isnan(column)]
        mean, deviation = found["mean"][at], found["deviation"][at]
        assert mean == (pytest.approx(kept.mean(), rel=6e-5, abs=1e-9) if len(kept) else None)
        assert deviation == (pytest.approx(kept.std(ddof=1), rel=6e-5, abs=1e-9) if len(kept) > 1 else None)
    assert numbers.band(np.array(rows)) == found
    json.dumps(found, allow_nan=False)


def test_none_becomes_nan_row_by_row():
    rows = numbers.as_rows({4: [1.0, None], 0: [None, 0.5], 7: [2.0, 3.0]})
    np.testing.assert_array_equal(rows, [[1.0, math.nan], [math.nan, 0.5], [2.0, 3.0]])


BOUND = st.dictionaries(
    st.tuples(st.sampled_from([30, 35, 40, 45]), st.sampled_from(PRESENTATIONS)),
    st.integers(0, 100).map(lambda x: x / 100),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.integers(0, 3), BOUND, max_size=4), min_size=1))
def test_new_classes_are_those_that_all_lines_with_the_seed_have_brought(accuracies):
    lines = {
        line: {
            seed: made_up([addition(4, 35), *(bound(*at, value) for at, value in bounds.items())])
            for seed, bounds in runs.items()
        }
        for line, runs in accuracies.items()
    }
    found = numbers.new_class_accuracy(lines)
    assert list(found) == list(accuracies)
    for line, runs in accuracies.items():
        assert set(found[line]) == set(runs)
        for seed in runs:
            expected = []
            for k in (1, 2, 5, 10, 20):
                with_seed = [other[seed] for other in accuracies.values() if seed in other]
                common = [first for first in (30, 35, 40, 45) if all((first, k) in one for one in with_seed)]
                mine = [runs[seed][first, k] for first in common]
                expected.append(sum(mine) / len(mine) if mine else None)
            assert found[line][seed] == near(expected)


def test_a_seed_that_only_one_line_has_counts_all_of_its_additions():
    one = made_up([bound(30, 1, 0.2), bound(35, 1, 0.6), bound(30, 2, 0.9)])
    other = made_up([bound(35, 1, 1.0)])
    found = numbers.new_class_accuracy({"one": {0: one, 1: one}, "other": {0: other, 2: other}, "none": {}})
    assert found["one"] == {0: [0.6, None, None, None, None], 1: [0.4, 0.9, None, None, None]}
    assert found["other"] == {0: [1.0, None, None, None, None], 2: [1.0, None, None, None, None]}
    assert found["none"] == {}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 120), st.integers(1, 250), st.integers(1, 700), st.booleans())
def test_the_oldest_are_looked_at_as_each_milestone_is_reached_or_passed(start, add, total, none_came):
    """Records as the loop's docstring has them: before the first addition, and whenever a milestone is passed."""
    value, records, expected = itertools.count(1), [], dict.fromkeys([0, *MILESTONES])
    if not none_came:
        n = start
        records.append(oldest(n, next(value) / 100, 0.5))
        for place in (0, *(milestone for milestone in MILESTONES if milestone <= start)):
            expected[place] = 0.01
        while n < total:
            before, n = n, n + add
            passed = [milestone for milestone in MILESTONES if before < milestone <= n]
            if passed:
                at = next(value) / 100
                records += [addition(1, n), oldest(n, at, 1 - at)]
                expected |= dict.fromkeys(passed, at)
    result = made_up(records, start)
    assert numbers.oldest_accuracy({3: result}) == {3: near(expected.values())}
    among = [None if at is None else 0.5 if at == 0.01 else 1 - at for at in expected.values()]
    assert numbers.oldest_accuracy({3: result}, "among_themselves") == {3: near(among)}


def test_the_oldest_by_hand_with_a_milestone_passed_by_an_odd_number():
    result = made_up([oldest(30, 0.8, 0.81), oldest(103, 0.7, 0.71), oldest(205, 0.6, 0.61)])
    none = made_up([])
    assert numbers.oldest_accuracy({5: result, 1: none}) == {5: [0.8, 0.7, 0.6, None], 1: [None] * 4}
    assert numbers.oldest_accuracy({5: result}, "among_themselves") == {5: [0.81, 0.71, 0.61, None]}


STEPS = st.one_of(st.none(), st.integers(1, 60))
TIMES = st.dictionaries(st.integers(0, 9), STEPS, max_size=8)


def runs_of(times):
    """Runs that reach 100 classes at these steps, 200 at twice as many, and never 400."""
    twice = {seed: None if at is None else 2 * at for seed, at in times.items()}
    return {seed: {"steps_to": {"100": at, "200": twice[seed], "400": None}} for seed, at in times.items()}


def outcome(base, other):
    """The ratio; without bounds where one of them never got there; None where there is nothing to compare."""
    if base is None and other is None:
        return None
    if base is None:
        return -math.inf
    return math.inf if other is None else other / base


def told(value):
    return None if math.isinf(value) else pytest.approx(value, **SHORT)


@settings(max_examples=250, deadline=None)
@given(TIMES, TIMES)
def test_ratios_are_paired_by_seed_and_rank_those_that_never_got_there(base, other):
    found = numbers.ratios(runs_of(base), runs_of(other))
    assert list(found) == ["100", "200", "400"]
    shared = [seed for seed in base if seed in other]
    outcomes = {seed: outcome(base[seed], other[seed]) for seed in shared}
    for milestone in ("100", "200"):
        one = found[milestone]
        assert one["seeds"] == {str(seed): None if x is None else told(x) for seed, x in outcomes.items()}
        pairs = [(base[seed] is None, other[seed] is None) for seed in shared]
        counted = [one[name] for name in ("both", "only_base", "only_other", "neither")]
        assert counted == [sum(p == pair for p in pairs) for pair in itertools.product((False, True), repeat=2)]
        ranked = sorted(x for x in outcomes.values() if x is not None)
        if not ranked:
            assert (one["median"], one["low"], one["high"]) == (None, None, None)
            continue
        assert (one["low"], one["high"]) == (told(ranked[0]), told(ranked[-1]))
        middle = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
        assert one["median"] == (None if any(map(math.isinf, middle)) else told(sum(middle) / 2))
    assert found["400"]["neither"] == len(shared)
    assert found["400"]["median"] is None
    json.dumps(found, allow_nan=False)


def test_ratios_by_hand():
    base, other = {0: 10, 1: 20, 2: None, 3: None, 4: 40, 8: 5}, {4: None, 3: None, 2: 9, 1: 10, 0: 20, 9: 5}
    found = numbers.ratios(runs_of(base), runs_of(other))["100"]
    assert found["seeds"] == {"0": 2.0, "1": 0.5, "2": None, "3": None, "4": None}
    assert [found[name] for name in ("both", "only_base", "only_other", "neither")] == [2, 1, 1, 1]
    assert (found["median"], found["low"], found["high"]) == (1.25, None, None)  # of -inf, 0.5, 2, inf


def test_those_that_had_the_classes_from_the_start_have_no_ratio():
    found = numbers.ratios({0: made_up([], 100), 1: made_up([], 100)}, {1: made_up([], 100)})["100"]
    assert found["seeds"] == {"1": None}
    assert (found["both"], found["neither"], found["median"], found["low"]) == (1, 0, None, None)


@settings(max_examples=150, deadline=None)
@given(TIMES)
def test_median_steps_are_none_where_half_did_not_get_there(times):
    got, runs = sorted(at for at in times.values() if at is not None), runs_of(times)
    if 2 * len(got) <= len(times):
        assert numbers.median_steps(runs, 100) is None
    else:
        everyone = got + [10**9] * (len(times) - len(got))  # behind all others
        assert numbers.median_steps(runs, 100) == np.median(everyone)
    assert numbers.median_steps(runs, 400) is None


VARIANTS = {name: Curriculum(head=head, max_steps=60) for name, head in (("a", "softmax"), ("b", "hebbian"))}
PANELS = [Panel("top", {"A": "a", "B": "b"}, "row"), Panel("other", {"A again": "a"})]


def summary_of(results, panels=PANELS, variants=VARIANTS):
    """The object, which must be what JSON gives back."""
    found = summarise(panels, variants, results, figure="10", seeds=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_a_summary_holds_bands_runs_and_ratios_of_each_line():
    results = {"a": {seed: learner(seed, 4, steps=60) for seed in range(3)}, "b": {1: learner(1, 2, steps=60)}}
    found = summary_of(results)
    assert (found["figure"], found["seeds"], found["steps"]) == ("10", 3, 60)
    assert found["axes"]["step"] == list(range(0, 61, 4))
    assert found["axes"]["presentations"] == [1, 2, 5, 10, 20]
    assert found["axes"]["classes"] == [30, 100, 200, 400]
    assert [(panel["row"], panel["title"]) for panel in found["panels"]] == [("row", "top"), ("", "other")]
    a, b = found["panels"][0]["lines"]
    assert [(line["name"], line["variant"]) for line in (a, b)] == [("A", "a"), ("B", "b")]
    assert (a["settings"]["head"], b["settings"]["head"]) == ("softmax", "hebbian")
    assert not {"seed", "save_seconds"} & set(a["settings"])
    assert list(a["runs"]) == ["0", "1", "2"]
    kept = {"accuracy_all": 0.5, "oldest": 0.75, "reason": "steps"}
    for seed, result in results["a"].items():
        expected = {name: result[name] for name in ("steps", "classes", "steps_to")} | kept
        assert a["runs"][str(seed)] == expected
    curves = [numbers.classes_at(result, range(0, 61, 4)) for result in results["a"].values()]
    assert a["classes"] == numbers.band(curves)
    assert a["classes"]["mean"][-1] == pytest.approx(np.mean([r["classes"] for r in results["a"].values()]), **SHORT)
    assert set(b["classes"]["deviation"]) == {None}
    new = numbers.new_class_accuracy({"A": results["a"], "B": results["b"]})
    assert a["new_classes"]["seeds"] == {str(seed): row for seed, row in new["A"].items()}
    assert b["new_classes"]["mean"] == near(new["B"][1])
    assert b["oldest"]["mean"] == numbers.oldest_accuracy(results["b"])[1]
    assert b["oldest_among_themselves"]["mean"] == numbers.oldest_accuracy(results["b"], "among_themselves")[1]
    assert a["median_steps"] == {str(n): numbers.median_steps(results["a"], n) for n in MILESTONES}
    assert "ratios" not in a
    assert b["ratios"] == numbers.ratios(results["a"], results["b"])
    assert found["core_seconds"] == 4 * 3.5  # runs of two panels count once
    assert found["images"]["classes"] == 60
    assert found["run_by"]["command"] == ["firstsight figure 10"]


@pytest.mark.parametrize("finished", [[], ["a"], ["b"]])
def test_lines_without_a_finished_run_have_no_bands(finished):
    found = summary_of({name: {0: learner(0, 3, steps=60)} if name in finished else {} for name in VARIANTS})
    for line in (line for panel in found["panels"] for line in panel["lines"]):
        bands = [line[name] for name in ("classes", "new_classes", "oldest", "oldest_among_themselves")]
        assert (None in bands) == (line["variant"] not in finished) == (bands == [None] * 4)
        assert list(line["runs"]) == (["0"] if line["variant"] in finished else [])
    assert (found["images"] is None) == (not finished)
    assert found["core_seconds"] == 3.5 * len(finished)
    ratios = found["panels"][0]["lines"][1]["ratios"]["100"]
    assert (ratios["seeds"], ratios["median"], ratios["neither"]) == ({}, None, 0)


def test_a_diverged_run_keeps_the_classes_it_had_at_all_later_steps():
    sound = TINY.replace(max_steps=20)
    broken = sound.replace(head="softmax", optimizer="rmsprop", lr=1e36)
    results = {"sound": {0: run(settings=sound)}, "broken": {0: run(settings=broken)}}
    found = summary_of(results, [Panel("", {"A": "sound", "B": "broken"})], {"sound": sound, "broken": broken})
    a, b = found["panels"][0]["lines"]
    assert (a["runs"]["0"]["reason"], b["runs"]["0"]["reason"]) == ("steps", "diverged")
    assert b["classes"]["mean"] == [float(results["broken"][0]["classes"])] * 11
    assert a["classes"]["mean"][-1] == results["sound"][0]["classes"] > 4
