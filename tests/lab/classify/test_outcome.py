"""One line's numbers against plain loops, and outcomes on disk."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.classify.outcome import Outcome, load_about, load_outcomes, numbers, save_outcomes


def outcome(seed, old, new, classes):
    rng = np.random.default_rng(seed)
    old_y, new_y = rng.integers(0, classes, old), rng.integers(classes, classes + 3, new)
    given = {
        "old_answer": np.where(rng.random(old) < 0.5, old_y, 0).astype(np.int32),
        "new_answer": np.where(rng.random(new) < 0.5, new_y, 0).astype(np.int32),
    }
    for whose, y in (("old", old_y), ("new", new_y)):
        given[f"{whose}_right"] = given[f"{whose}_answer"] == y
        given[f"{whose}_nll"] = rng.exponential(size=len(y)).astype(np.float32)
        given[f"{whose}_confidence"] = rng.random(len(y)).astype(np.float32)
    return (
        Outcome("softmax", "imprinting", 5, 0, "test", seconds=0.5, **given),
        old_y,
        new_y,
        rng.integers(1, 40, classes),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 30), st.integers(1, 9), st.floats(0.01, 0.99))
def test_the_numbers_are_those_of_plain_loops(seed, old, new, classes, share):
    one, old_y, new_y, counts = outcome(seed, old, new, classes)
    line = numbers(one, old_y, new_y, counts, share)
    for whose, y in (("old", old_y), ("new", new_y)):
        right = getattr(one, f"{whose}_right")
        assert line[f"{whose}_micro"] == pytest.approx(sum(right) / len(right))
        each = [np.mean([r for r, own in zip(right, y, strict=True) if own == c]) for c in sorted(set(y.tolist()))]
        assert line[f"{whose}_macro"] == pytest.approx(sum(each) / len(each))
    assert line["mixed"] == pytest.approx((1 - share) * one.old_right.mean() + share * one.new_right.mean())
    assert line["nll"] == pytest.approx((1 - share) * one.old_nll.mean() + share * one.new_nll.mean(), rel=1e-5)
    assert line["ece"] == pytest.approx(plain_ece(one, share), abs=1e-6)
    for name, low, high in (("below_5", 0, 4), ("5_to_20", 5, 20), ("above_20", 21, 10**9)):
        own = [r for r, c in zip(one.old_right, old_y, strict=True) if low <= counts[c] <= high]
        assert line["bands"][name] == (pytest.approx(np.mean(own)) if own else None)


def plain_ece(one, share):
    weighed = [(c, r, (1 - share) / len(one.old_right)) for c, r in zip(one.old_confidence, one.old_right, strict=True)]
    weighed += [(c, r, share / len(one.new_right)) for c, r in zip(one.new_confidence, one.new_right, strict=True)]
    total = 0.0
    for k in range(15):
        own = [one for one in weighed if k / 15 <= one[0] < (k + 1) / 15 or (k == 14 and one[0] == 1)]
        total += abs(sum(w * (float(r) - c) for c, r, w in own))
    return total


def test_before_anything_comes_no_new_example_is_right_and_the_mix_has_no_nll():
    one, old_y, new_y, counts = outcome(0, 20, 10, 4)
    given = vars(one) | {"new_right": np.zeros(10, bool), "new_nll": np.full(10, np.inf, np.float32), "shots": 0}
    line = numbers(Outcome(**given), old_y, new_y, counts, 0.25)
    assert line["nll"] is None
    assert line["new_micro"] == 0
    assert math.isclose(line["mixed"], 0.75 * line["old_micro"])


def test_outcomes_come_back_from_disk_as_they_were(tmp_path):
    all_ = [outcome(seed, 9, 4, 3)[0] for seed in range(3)]
    save_outcomes(tmp_path / "o.npz", {"seconds": 1.5, "asked": {"seed": 0}}, all_)
    assert load_about(tmp_path / "o.npz") == {"seconds": 1.5, "asked": {"seed": 0}}
    for one, again in zip(all_, load_outcomes(tmp_path / "o.npz"), strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(again, name), value)
            if isinstance(value, np.ndarray):
                assert getattr(again, name).dtype == value.dtype


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_damaged_outcomes_are_named(tmp_path, damage):
    path = tmp_path / "o.npz"
    save_outcomes(path, {}, [outcome(0, 200, 40, 3)[0]])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    changed = {"cut": content[:middle], "other": b"not at all", "empty": b""}
    content[middle] ^= 255
    path.write_bytes(bytes(changed.get(damage, content)))
    with pytest.raises(InputError, match=r"o\.npz.*damaged"):
        load_outcomes(path)
