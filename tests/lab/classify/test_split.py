from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.data.split import ARRAYS, keys_of, make_split
from firstsight.lab.classify.settings import ASKED, SHOTS, Trial


def source(sizes, texts=None, part=None, seed=0):
    """Classes of these sizes, in a mixed order; ``texts`` and ``part`` give what a row has by its number."""
    labels = [f"c{i:03d}" for i, size in enumerate(sizes) for _ in range(size)]
    labels = np.random.default_rng(seed).permutation(labels).tolist()
    texts = [texts(i) if texts else f"text {i}" for i in range(len(labels))]
    return Source("rows.csv", labels, None, texts, part and [part(i) for i in range(len(labels))], [], "", False)


def check(split, src, trial):
    """All that holds of any split."""
    V, U = len(split.classes), len(split.new_valid)
    assert len(split.new_test) == U
    groups = [split.classes, split.new_valid, split.new_test]
    assert all(group == sorted(group) for group in groups)
    assert len(set().union(*groups)) == V + 2 * U
    taken = np.concatenate([getattr(split, name).ravel() for name in ARRAYS[:-1]])
    assert len(taken) == len(set(taken.tolist()))
    assert set(np.flatnonzero(split.y_N >= 0)) == set(taken.tolist())
    assert split.shown_valid.shape == split.shown_test.shape == (U, max(SHOTS))
    for name in ("train", "valid", "test"):
        rows = getattr(split, name)
        assert (np.diff(rows) > 0).all()
        assert [split.classes[y] for y in split.y_of(rows)] == [src.labels[row] for row in rows]
    assert set(split.y_of(split.train)) == set(range(V))
    for new, shown, asked in (
        (split.new_valid, split.shown_valid, split.asked_valid),
        (split.new_test, split.shown_test, split.asked_test),
    ):
        np.testing.assert_array_equal(split.y_of(shown), V + np.arange(U)[:, None].repeat(max(SHOTS), 1))
        assert [new[y - V] for y in split.y_of(asked)] == [src.labels[row] for row in asked]
        assert min(Counter(split.y_of(asked).tolist()).values()) >= ASKED
        assert (np.diff(split.y_of(asked)) >= 0).all()
    keys = keys_of(src)
    trained = {keys[row] for row in [*split.train, *split.shown_valid.ravel(), *split.shown_test.ravel()]}
    asked = {keys[row] for rows in (split.valid, split.test, split.asked_valid, split.asked_test) for row in rows}
    assert not trained & asked
    assert not {keys[row] for row in split.valid} & {keys[row] for row in split.test}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=12, max_size=40),
    seed=st.integers(0, 99),
    new=st.integers(2, 12),
    share=st.sampled_from([0.1, 0.2, 0.5]),
    distinct=st.integers(20, 2000),
)
def test_any_sizes(sizes, seed, new, share, distinct):
    sizes = sizes + [30] * 6
    g = np.random.default_rng(seed)
    words = g.integers(0, distinct, sum(sizes)).tolist()
    src = source(sizes, texts=lambda i: f"Text  {words[i]}" if i % 2 else f"text {words[i]}")
    trial = Trial(seed=seed, new_classes=new, test_share=share)
    try:
        split, duplicates, notes = make_split(src, trial)
    except InputError:  # too much is there twice
        assert len(set(words)) < 0.8 * len(words)
        return
    check(split, src, trial)
    assert duplicates.rows == len(words) - len(set(words))
    assert bool(duplicates.across) == any("would measure memory" in note for note in notes)
    again, _, _ = make_split(src, trial)
    assert all(np.array_equal(getattr(split, name), getattr(again, name)) for name in ARRAYS)


def test_shares_and_groups():
    sizes = [1, 2, 3, 4, 7] * 60 + [40] * 100
    split, _, notes = make_split(src := source(sizes), trial := Trial(new_classes=80))
    check(split, src, trial)
    assert (len(split.new_valid), len(split.classes)) == (25, 350)  # a quarter of 100 in each
    assert "25 classes come later in each group, not 80" in notes[0]
    assert len(split.asked_valid) == 25 * 20
    index = {label: i for i, label in enumerate(split.classes)}
    of_size = Counter(dict.fromkeys((1, 2, 3, 4, 7, 40), 0))
    total = Counter(of_size)
    for row in split.test:
        of_size[sizes[int(src.labels[row][1:])]] += 1
    for label in index:
        total[sizes[int(label[1:])]] += sizes[int(label[1:])]
    assert of_size[1] == 0
    for size in (2, 3, 4, 7, 40):  # classes of few examples are asked in proportion too
        assert of_size[size] / total[size] == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / total[size]) ** 0.5)
    assert len(split.valid) == pytest.approx(len(split.test) / 2, rel=0.2)


def test_seeds_differ():
    src = source([30] * 40)
    first, second = (make_split(src, Trial(seed=seed))[0] for seed in (0, 1))
    assert first.new_test != second.new_test
    assert not np.array_equal(first.train, second.train)


@pytest.mark.parametrize(
    ("sizes", "new", "says"),
    [
        ([14] * 30, 80, "0 of 30 classes have 15 or more different examples"),
        ([20] * 3 + [5] * 30, 80, "3 of 33 classes have 15"),
        ([20] * 7, 80, "7 of 7 classes have 15 .*mean.* Expected 4 such classes of 8 in all"),
        ([20] * 20, 1, "and new_classes is 1. Expected 4 such .* and 2 or more for new_classes"),
        ([20] * 4 + [1] * 20, 80, "rows of old classes train, 0 are there to choose on, 0 to judge on"),
    ],
)
def test_too_few(sizes, new, says):
    with pytest.raises(InputError, match=says):
        make_split(source(sizes), Trial(new_classes=new))


def test_the_largest_classes_do_not_come_later():
    sizes = [15] * 30 + [500] * 4 + [1] * 100  # 18.5 in the mean
    for seed in range(8):
        split, _, _ = make_split(src := source(sizes), trial := Trial(seed=seed))
        check(split, src, trial)
        assert len(split.new_test) == 7
        assert {"c030", "c031", "c032", "c033"} <= set(split.classes)


def test_the_least_that_goes():
    src, trial = source([15] * 4 + [6] * 4), Trial()
    split, _, _ = make_split(src, trial)
    check(split, src, trial)
    assert (len(split.new_valid), len(split.classes)) == (2, 4)


def test_what_is_in_training_is_not_asked():
    """Each text of the small classes is there three times: wherever two parts share one, one of them drops it."""
    sizes = [20] * 40 + [12] * 30
    src = source(sizes)
    for rows in (np.flatnonzero(np.array(src.labels) == f"c{c:03d}") for c in range(40, 70)):
        for i, row in enumerate(rows):
            src.texts[row] = f"{src.labels[row]} {i // 3}"
    split, duplicates, notes = make_split(src, trial := Trial(new_classes=5))
    check(split, src, trial)
    assert duplicates.rows == 30 * 8
    assert 50 < duplicates.across < 30 * 12 * 0.3
    assert f"{duplicates.across:,} rows of the test and of the choice are not asked" in " ".join(notes)
    assert not any(label >= "c040" for label in (*split.new_valid, *split.new_test))  # 4 different texts only


def test_a_split_of_their_own():
    sizes = [40] * 12 + [6] * 8
    part = ["train", "train", "valid", "test", "test"]
    src = source(sizes, part=lambda i: part[i % 5])
    split, _, _ = make_split(src, trial := Trial(new_classes=3))
    check(split, src, trial)
    for name in ("train", "valid", "test"):
        assert {src.part[row] for row in getattr(split, name)} == {name}
    assert {src.part[row] for row in (*split.asked_test, *split.asked_valid)} == {"test"}
    assert "test" not in {src.part[row] for row in (*split.shown_test.ravel(), *split.shown_valid.ravel())}
    old = [row for row, label in enumerate(src.labels) if label in split.classes]
    assert len(old) == len(split.train) + len(split.valid) + len(split.test)


def test_a_split_without_validation_draws_one_from_training():
    src = source([40] * 12 + [6] * 8, part=lambda i: "test" if i % 3 == 0 else "train")
    split, _, _ = make_split(src, trial := Trial(new_classes=3, test_share=0.4))
    check(split, src, trial)
    assert {src.part[row] for row in split.valid} == {"train"}
    assert len(split.valid) / (len(split.valid) + len(split.train)) == pytest.approx(0.2, abs=0.05)


def test_a_split_whose_test_has_classes_of_its_own():
    src = source([40] * 12 + [6] * 3)
    src = source([40] * 12 + [6] * 3, part=lambda i: "test" if src.labels[i] > "c011" or i % 3 == 0 else "train")
    split, _, notes = make_split(src, trial := Trial(new_classes=3))
    check(split, src, trial)
    assert "3 classes have no training row in your split, and are left out." in notes
    with pytest.raises(InputError, match=r"0 of 12 classes .* outside of your split's test part"):
        make_split(source([40] * 12, part=lambda i: "train"), trial)


def test_vectors_are_the_same_by_their_values():
    h = np.array([[0.0, 1], [-0.0, 1], [1, 0], [0, 1.0000001]], dtype=np.float32)
    keys = keys_of(Source("a.npz", list("aaab"), h, None, None, [], "", False))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_rows_of_no_part_have_no_class():
    split, _, _ = make_split(src := source([40] * 12, texts=lambda i: f"{max(i, 60)}"), Trial(new_classes=3))
    unused = np.flatnonzero(split.y_N < 0)
    assert len(unused)
    assert len(src) == len(split.y_N)
    with pytest.raises(ValueError, match="no part"):
        split.y_of(unused)
