"""Labels of any kind, those that come later too: none is cut, none is confused with another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.estimator.labels import UNMET, Known, as_labels

WHOLE = st.integers(-(2**63), 2**63 - 1)
KINDS = st.sampled_from([WHOLE, st.text(max_size=30), st.booleans()])
MANY = KINDS.flatmap(lambda kind: st.lists(kind, min_size=1, max_size=12))


@given(MANY)
def test_labels_come_out_as_they_went_in(values):
    for y in (values, tuple(values), np.array(values), np.array(values, dtype=object)):
        fixed = isinstance(y, np.ndarray) and y.dtype.kind == "U"
        labels = as_labels(y)
        assert labels.tolist() == (y.tolist() if fixed else values)  # numpy's own drop zeros at the end
        assert {type(one) for one in labels.tolist()} == {type(values[0])}


@given(st.lists(st.lists(st.text(max_size=12), max_size=6), min_size=1, max_size=6))
def test_arrivals_keep_classes_sorted_and_rows_in_order_of_arrival(batches):
    known, order = Known(np.array([], dtype=object), np.array([], dtype=np.int64)), []
    for batch in batches:
        if not order and not batch:
            continue
        labels = as_labels(batch) if batch else np.array([], dtype=object)
        known = known.met(labels, len(order)) if order else Known(np.unique(labels), np.arange(len(set(batch))))
        order += sorted(set(batch) - set(order))
    assert known.classes.tolist() == sorted(order)
    assert [order[row] for row in known.rows] == known.classes.tolist()
    assert known.label_of_row.tolist() == order
    for n, gone in enumerate(order[:-1], start=1):
        known = known.without(known.places(as_labels([gone])))
        assert known.label_of_row.tolist() == order[n:]


def test_a_declared_label_has_no_row_until_it_is_met():
    known = Known(as_labels(["b"]), np.array([0])).declared(as_labels(["c", "a", "b"]))
    assert known.classes.tolist() == ["a", "b", "c"]
    assert known.rows.tolist() == [UNMET, 0, UNMET]
    assert known.met(as_labels(["c", "d"]), 1).rows.tolist() == [UNMET, 0, 1, 2]
    assert known.without(np.array([2])).rows.tolist() == [UNMET, 0]


def fitted(y):
    X = np.eye(len(set(y)))[[sorted(set(y)).index(one) for one in y]]
    return FirstSightClassifier(random_state=0, least_steps=40).fit(np.concatenate([X, X * 0], 1), y)


@settings(max_examples=8, deadline=None)
@given(KINDS.flatmap(lambda kind: st.lists(kind, min_size=2, max_size=5, unique=True)))
def test_a_classifier_of_any_labels_answers_them(values):
    found = fitted(values * 2)
    assert found.classes_.tolist() == sorted(values)
    X = np.concatenate([np.eye(len(values)), np.zeros((len(values), len(values)))], 1)
    assert found.predict(X).tolist() == sorted(values)


def test_a_longer_string_later_is_not_cut():
    found = fitted(np.array(["ab", "cd"], dtype="<U2").repeat(3))
    long = "a" * 3000
    for label, at in (("abc", 2), (long, 3)):
        found.partial_fit(9 * np.eye(4)[[at]], np.array([label]))
    assert found.classes_.tolist() == [long, "ab", "abc", "cd"]
    assert set(found.predict(9 * np.eye(4)[[2, 3]])) == {"abc", long}
    found.partial_fit(np.eye(4)[[0]], np.array(["ab"], dtype="<U77"))
    assert len(found.classes_) == 4


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_whole_numbers_of_every_width_are_the_same_labels(dtype):
    found = fitted(np.array([3, 100, 3, 100], dtype=dtype))
    found.partial_fit(np.eye(4)[[2]], np.array([7], dtype="int16"))
    assert found.classes_.tolist() == [3, 7, 100]
    assert fitted(torch.tensor([3, 100, 3]).tolist()).classes_.dtype == np.int64
    assert as_labels(torch.tensor([3, 100])).tolist() == [3, 100]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["1", 2], "several kinds"),
        ([1, True], "several kinds"),
        ((0, "0"), "several kinds"),
        (np.array(["a", None], dtype=object), "None and NaN are no labels"),
        (np.array([b"a", b"b"]), "make strings"),
        (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"), "make strings"),
        ([2**63, 1], "64 bits"),
        (np.array([2**64 - 1, 1], dtype="uint64"), "64 bits"),
        (None, "target y is None"),
        ([1.5, 2.5], "Unknown label type"),
        ([1.0, float("nan")], "NaN"),
        ([[0, 1], [1, 1]], "1d array"),
        ([["a", "b"], ["c", "d"]], "1d array"),
    ],
)
def test_what_is_no_label_is_refused(y, words):
    with pytest.raises(ValueError, match=words):
        as_labels(y)


@pytest.mark.parametrize(
    ("first", "later"), [([1, 2], ["1"]), (["a", "b"], [1]), ([True, False], [1]), ([1, 2], [1.0])]
)
def test_labels_of_another_kind_later_are_refused_and_nothing_changes(first, later):
    found = fitted(first * 2)
    before = found.predict_proba(np.eye(4))
    for call in (lambda: found.partial_fit(np.eye(4)[:1], later), lambda: found.forget(later)):
        with pytest.raises(InputError, match="expected the same kind"):
            call()
    assert (found.predict_proba(np.eye(4)) == before).all()
