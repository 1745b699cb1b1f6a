"""What comes after fit: new classes at first sight, weights, spare rows that nobody notices, and what is forgotten."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from clusters_of_names import NAMES, NEW, OLD
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.estimator.weights import class_means
from firstsight.functional.rows import moments_of_rows
from firstsight.heads.kept import fresh


def test_one_example_makes_a_class_known_and_leaves_the_others_as_they_were(trained, clusters):
    old_X, old_y = clusters(20, OLD)
    new_X, new_y = clusters(20, NEW)
    before, weight = trained.score(old_X, old_y), trained._rows.head.weight[:10].clone()
    trained.partial_fit(*clusters(1, NEW))
    assert trained.classes_.tolist() == NAMES.tolist()
    assert trained.score(old_X, old_y) > before - 0.05
    assert trained.score(new_X, new_y) > 0.5
    assert torch.equal(trained._rows.head.weight[:10], weight)
    trained.partial_fit(*clusters(4, NEW))
    assert trained.score(new_X, new_y) > 0.8


def test_spare_rows_change_nothing_of_what_is_written(trained, clusters):
    """The same arrivals, in a layer with many spare rows, few, and none but those that are met at once."""
    many, few = copy.deepcopy(trained), copy.deepcopy(trained)
    many._rows.room_for(700)
    few._rows.room_for(11)
    for i in NEW:
        X, y = clusters(1, [i])
        trained._rows.room_for(1)
        trained._rows.trim()  # and back to none
        for one in (many, few, trained):
            one.partial_fit(X, y)
    assert many._rows.head.num_classes > few._rows.head.num_classes > few._rows.used == 20
    for one in (few, trained):
        for name in ("weight", "bias", "counts"):
            ours, theirs = getattr(one._rows.head, name)[:20], getattr(many._rows.head, name)[:20]
            assert torch.equal(ours, theirs), name
    assert torch.equal(many._rows.head._kept("moments"), few._rows.head._kept("moments"))


def test_the_moments_of_rows_are_numpys_weighted_ones():
    g = np.random.default_rng(0)
    w, share = g.normal(size=(20_000, 3)), g.random(20_000) * (g.random(20_000) < 0.7)
    share /= share.sum()
    mean, covariance = moments_of_rows(torch.from_numpy(w), torch.from_numpy(share))
    assert np.allclose(mean, share @ w)
    assert np.allclose(covariance, np.cov(w.T, aweights=share, ddof=0))


def test_a_class_more_is_seldom_a_copy_of_all_and_one_look_serves_many(trained, clusters, monkeypatch):
    places, looks = [], []
    head, look = trained._rows.head, fresh.look_at
    monkeypatch.setattr(fresh, "look_at", lambda *args: (looks.append(1), look(*args))[1])
    g = np.random.default_rng(1)
    for i in range(200):
        trained.partial_fit(g.normal(size=(1, 24)), [f"later {i:03d}"])
        places.append(head.weight.data_ptr())
    assert len(trained.classes_) == head.num_classes == 210
    assert sum(one != other for one, other in pairwise(places)) <= 11
    assert len(looks) == 1


def test_classes_seen_often_are_left_alone_and_it_is_said(trained, clusters):
    before = trained.predict_proba(clusters(1)[0])
    with pytest.warns(UserWarning, match=r"nothing was learnt.*warm_start"):
        trained.partial_fit(*clusters(2, OLD))
    assert before.shape == (20, 10)
    assert (trained._rows.head.counts[:10] == trained._rows.head.counts.min()).all()


def test_known_and_new_at_once_is_what_the_layers_write_does(trained, clusters):
    X, y = clusters(3, [2, 5])
    head = copy.deepcopy(trained._rows.head)
    head.add_classes(1)
    head.write(trained._scaling.scaled(X), torch.tensor([1, 1, 1, 10, 10, 10]))
    trained.partial_fit(X, y)
    assert torch.equal(trained._rows.head.weight[:11], head.weight)
    assert torch.equal(trained._rows.head.bias[:11], head.bias)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 100)), min_size=1, max_size=20))
def test_weighted_means_of_classes(drawn):
    y, w = (np.array(part) for part in zip(*drawn, strict=True))
    h = np.random.default_rng(0).normal(size=(len(y), 5)).astype(np.float32)
    found = class_means(torch.from_numpy(h), torch.from_numpy(y), torch.from_numpy(w)).numpy()
    for label in set(y):
        mean = np.average(h[y == label], axis=0, weights=w[y == label])
        assert np.allclose(found[y == label], mean, atol=1e-5)


def test_an_example_of_weight_zero_is_absent_and_its_label_unknown(trained, clusters):
    X, y = clusters(2, [1, 3])
    other = copy.deepcopy(trained).partial_fit(X[:2], y[:2])
    trained.partial_fit(X, y, sample_weight=[1.0, 1.0, 0.0, 0.0])
    assert trained.classes_.tolist() == other.classes_.tolist()
    assert (trained.predict_proba(X) == other.predict_proba(X)).all()


def test_weights_of_a_new_classes_examples_shift_its_row(trained, clusters):
    X, y = clusters(2, [1])
    first, both, weighted = (copy.deepcopy(trained) for _ in range(3))
    first.partial_fit(X[[0, 0]], y)
    both.partial_fit(X, y)
    weighted.partial_fit(X, y, sample_weight=[1e6, 1.0])
    rows = [one._rows.head.weight[10] for one in (first, both, weighted)]
    assert torch.allclose(rows[0], rows[2], atol=1e-3)
    assert not torch.allclose(rows[0], rows[1], atol=0.1)


def test_the_first_call_is_a_fit_and_declares_what_is_to_come(clusters):
    X, y = clusters(5, OLD)
    ours = FirstSightClassifier(random_state=0, least_steps=60).partial_fit(X, y, classes=NAMES)
    fitted = FirstSightClassifier(random_state=0, least_steps=60).fit(X, y)
    assert ours.classes_.tolist() == NAMES.tolist()
    assert (ours.predict_proba(X)[:, ::2] == fitted.predict_proba(X)).all()
    assert (ours.predict_proba(X)[:, 1::2] == 0).all()
    assert (ours.predict(X) == fitted.predict(X)).all()
    assert ours.partial_fit(*clusters(1, [3])).predict_proba(X)[:, 3].min() > 0


def test_what_came_later_and_is_forgotten_was_never_there(trained, clusters):
    X, _ = clusters(3)
    before = trained.predict_proba(X)
    trained.partial_fit(*clusters(2, NEW), classes=["declared"])
    trained.forget("declared").forget(NAMES[NEW[0]]).forget(NAMES[NEW][1:])
    assert trained.classes_.tolist() == NAMES[OLD].tolist()
    assert (trained.predict_proba(X) == before).all()


def test_a_trained_class_that_is_forgotten_is_never_answered(trained, clusters):
    X, _ = clusters(10, OLD)
    logits = trained.decision_function(X)
    trained.partial_fit(*clusters(1, [5])).forget([NAMES[4], NAMES[0]])
    rest = [i for i in OLD if i not in (0, 4)]
    assert trained.classes_.tolist() == sorted([*NAMES[rest], NAMES[5]])
    kept = np.delete(np.arange(10), [0, 2])
    without = np.delete(trained.decision_function(X), trained.classes_.tolist().index(NAMES[5]), 1)
    assert np.allclose(without, logits[:, kept], atol=1e-4)
    trained.forget(NAMES[5]).partial_fit(*clusters(2, [4]))  # and may come again, as a new one
    assert NAMES[4] in trained.classes_
    assert trained.score(*clusters(20, [4])) > 0.5


@pytest.mark.parametrize(
    ("labels", "words"), [("nobody", "'nobody' is no class"), (NAMES[OLD], "no class would be left")]
)
def test_what_cannot_be_forgotten(trained, labels, words):
    with pytest.raises(InputError, match=words):
        trained.forget(labels)
    assert len(trained.classes_) == 10


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda X: np.where(X > 1, np.nan, X), "NaN"),
        (lambda X: X * np.inf, "infinity"),
        (lambda X: X[:, :5], "expecting 24 features"),
        (lambda X: X * 1e60, "too far apart"),
        (lambda X: X[0], "2D array"),
        (lambda X: X[:1], "inconsistent numbers"),
        (lambda X: X.astype(str) + "x", "could not convert|dtype"),
    ],
)
def test_bad_input_changes_nothing(trained, clusters, bad, words):
    X, y = clusters(2, [1, 2])
    before = trained.decision_function(X)
    with pytest.raises(ValueError, match=words):
        trained.partial_fit(bad(X), y)
    assert (trained.decision_function(X) == before).all()
    assert trained.classes_.tolist() == NAMES[OLD].tolist()
