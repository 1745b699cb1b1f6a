"""The advice says what the numbers say, and no more."""

import re

import pytest
from trial_fakes import LEVELS, fake_trial

from firstsight.lab.classify.judgement.advice import advise, break_even, remarks
from firstsight.lab.classify.judgement.wording import points

RIVAL = ("softmax", "imprinting")
ONLY = {("sight", "write"): (0.80, 0.60, 0.05), RIVAL: (0.80, 0.60, 0.05)}


def part(difference, low, high):
    return {"ours": 0.8, "rival": 0.8 - difference, "difference": difference, "low": low, "high": high, "classes": 9}


def trial_of(verdict, mixed, new, old, **more):
    """A trial with such a comparison, its other numbers as in any."""
    trial = fake_trial(ONLY | more.pop("levels", {}))
    parts = {"mixed": part(*mixed), "new": part(*new), "old": part(*old), "rare": None}
    trial["comparison"] = {**trial["comparison"], **parts, "verdict": verdict, **more}
    return trial


def test_ours():
    text = advise(trial_of("ours", (0.018, 0.009, 0.027), (0.12, 0.08, 0.16), (0.006, -0.003, 0.015)))
    assert text.startswith("Take HebbianSoftmax with the write: with 5 examples of each new class and 10% of the")
    assert "right on 80.0%, and the best rival, linear softmax with imprinting, on 78.2%: 1.8 points more" in text
    assert "(95% interval 0.9 to 2.7), on 300 old and 60 new classes of the test part, 3 trainings" in text
    assert "3 trainings, each the best of its side on the validation part." in text
    assert "Beside the verdict" not in text


def test_the_rival_plainly():
    text = advise(trial_of("rival", (-0.018, -0.027, -0.009), (-0.12, -0.16, -0.08), (-0.006, -0.015, 0.003)))
    assert text.startswith("Take linear softmax with imprinting, not the layer that writes: ")
    assert "1.8 points more (95% interval 0.9 to 2.7)" in text
    assert "the best of ours, HebbianSoftmax with the write, on 80.0%" in text


def test_no_difference_and_what_could_have_been_seen():
    text = advise(trial_of("none", (0.002, -0.008, 0.012), (0.01, -0.04, 0.06), (0.001, -0.01, 0.012)))
    assert text.startswith("No difference was found between HebbianSoftmax with the write (80.0% right) and")
    assert "+0.2 points for ours, 95% interval −0.8 to 1.2" in text
    assert "Take the simpler one; a difference below about 1.0 points, the longer half of the interval" in text
    assert "better" not in text
    assert not re.search(r"Take (Hebbian|linear)", text)


@pytest.mark.parametrize(("mixed", "least"), [((0.0, -0.193, 0.193), "19.3"), ((0.1, -0.008, 0.1), "10.8")])
def test_no_difference_smaller_than_the_one_found_is_said_to_be_seen(mixed, least):
    """No class differs, and four new ones wholly do: the interval ends at the most that is possible."""
    text = advise(trial_of("none", mixed, mixed, mixed))
    assert f"below about {least} points, the longer half of the interval, could not have been told from none" in text


def test_an_advantage_in_another_place_is_told_with_the_mix_where_it_turns():
    text = advise(trial_of("rival", (-0.02, -0.03, -0.01), (0.10, 0.06, 0.14), (-0.03, -0.04, -0.02)))
    assert "ours is 10.0 points better on new classes (95% interval 6.0 to 14.0)" in text
    assert "3.0 points worse on old classes (95% interval −4.0 to −2.0)" in text
    assert "ahead where the share of queries of new classes is above about 23.1%." in text
    text = advise(trial_of("ours", (0.02, 0.01, 0.03), (-0.10, -0.14, -0.06), (0.03, 0.02, 0.04)))
    assert "is below about 23.1%." in text
    text = advise(trial_of("none", (0.002, -0.01, 0.012), (0.10, 0.06, 0.14), (-0.01, -0.03, 0.01)))
    assert "10.0 points better on new classes" in text
    assert "about as good on old classes (−1.0 points, 95% interval −3.0 to 1.0)." in text
    assert "share of queries" not in text.partition("Beside")[2]


def test_where_the_two_are_equal():
    comparison = trial_of("none", (0, -1, 1), (0.09, 0.08, 0.1), (-0.01, -0.02, -0.005))["comparison"]
    share = break_even(comparison)
    assert (1 - share) * -0.01 + share * 0.09 == pytest.approx(0)
    assert break_even({"new": part(0.1, 0, 1), "old": part(0.1, 0, 1)}) is None


@pytest.mark.parametrize(
    ("own", "theirs", "said"),
    [
        (0.83, 0.83, "the write is not needed"),
        (0.83, 0.70, "the write stays ahead then too"),
        (0.70, 0.70, "such an epoch is no substitute for the write here"),
    ],
)
def test_one_more_epoch(own, theirs, said):
    levels = {("sight", "epoch"): (own, 0.6, 0.05), ("softmax", "epoch"): (theirs, 0.6, 0.05)}
    trial = trial_of("ours", (0.018, 0.009, 0.027), (0.12, 0.08, 0.16), (0.01, -0.003, 0.02), levels=levels)
    assert said in advise(trial)
    assert "After one more epoch over everything, the new examples too, HebbianSoftmax is at" in advise(trial)


def test_what_old_classes_lose():
    found = [one for one in remarks(fake_trial()) if one.startswith("When new classes come")]
    trial = fake_trial()
    old = {arrival: [line["old_micro"] for line in trial["lines"] if line["part"] == "test"
                     and line["method"] == "sight" and line["arrival"] == arrival and line["shots"] in (0, 5)]
           for arrival in ("none", "write")}  # fmt: skip
    lost = sum(old["none"]) / 3 - sum(old["write"]) / 3
    assert f"lose {points(lost)} points under HebbianSoftmax with the write" in found[0]
    assert "under logistic regression with imprinting" in found[0]


def test_too_few_classes_a_single_training_and_what_did_not_converge():
    none = part(0.1, None, None)
    trial = trial_of("none", (0.1, None, None), (0.1, None, None), (0.1, None, None))
    trial["comparison"]["mixed"] = none
    assert advise(trial).startswith("Nothing can be said about HebbianSoftmax")
    single = fake_trial(seeds=1)
    assert any("one training of each method" in one for one in remarks(single))
    assert ", 1 training, each" in advise(single)
    assert any("Not converged" in one and "logistic regression" in one for one in remarks(fake_trial()))


def test_small_but_there():
    trial = trial_of("ours", (0.003, 0.001, 0.005), (0.001, -0.01, 0.02), (0.003, 0.001, 0.005))
    assert any("small: below half a point" in one for one in remarks(trial))


def test_no_remark_says_what_the_advice_said():
    for levels in (LEVELS, ONLY):
        trial = fake_trial(levels)
        assert not [one for one in remarks(trial) if one in advise(trial)]


@pytest.mark.parametrize(("value", "text"), [(0.018, "1.8"), (-0.004, "−0.4"), (-0.0001, "0.0"), (0.1234, "12.3")])
def test_points(value, text):
    assert points(value) == text


def test_a_shortened_trial_is_said_to_be_one():
    trial = trial_of("ours", (0.018, 0.009, 0.027), (0.12, 0.08, 0.16), (0.006, -0.003, 0.015))
    assert "shortened trial" not in advise(trial)
    trial["plan"]["left_out"] = ["seed 3", "epochs after 3"]
    assert "a shortened trial, without seed 3, epochs after 3: a larger --budget leaves out less." in advise(trial)
