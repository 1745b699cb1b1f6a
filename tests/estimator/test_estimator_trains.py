"""fit: X of any scale, weights, what is refused, and going on from what is there."""

import numpy as np
import pytest
import torch
from clusters_of_names import NAMES, NEW, OLD

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.scaling import Scaling


def small(**options):
    return FirstSightClassifier(**({"random_state": 0, "least_steps": 100} | options))


@pytest.mark.parametrize("factor", [1e-200, 1e-20, 1e6, 1e200])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_any_scale_gives_the_same_answers(trained, clusters, factor, offset):
    X, y = clusters(15, OLD)
    asked, _ = clusters(3)
    plain = small().fit(X, y).predict_proba(asked)
    moved = small().fit(factor * (X + offset), y).predict_proba(factor * (asked + offset))
    assert np.allclose(plain, moved, atol=2e-3)


@pytest.mark.parametrize(("n", "D", "dtype"), [(1, 3, np.float64), (7, 1, np.float32), (20_000, 5, np.float32)])
def test_scaled_vectors_are_centred_and_of_mean_squared_length_one(n, D, dtype):
    X = (np.random.default_rng(0).normal(size=(n, D)) * 7 + 3).astype(dtype)
    h = Scaling.of(X).scaled(X).double()
    assert h.mean(0).abs().max() < 1e-5
    assert float(h.square().sum(1).mean()) == pytest.approx(1.0 if n > 1 else 0.0, abs=1e-5)
    if n > 1:  # the geometry is kept
        ratio = (h[1:] - h[0]).norm(dim=1).numpy() / np.linalg.norm((X[1:] - X[0]).astype(float), axis=1)
        assert np.allclose(ratio, ratio[0], rtol=1e-4)


def test_vectors_that_are_all_equal_train_a_layer_that_knows_how_often_classes_occur():
    found = small(least_steps=400).fit(np.ones((8, 3)), ["a"] * 6 + ["b"] * 2)
    assert found.predict_proba(np.ones((1, 3)))[0] == pytest.approx([0.75, 0.25], abs=0.05)


def test_tensors_and_half_precision_are_vectors_too(clusters):
    X, y = clusters(5, OLD)
    half = X.astype(np.float16)
    plain = small().fit(half.astype(np.float32), y).predict_proba(half)
    for given in (half, torch.from_numpy(half), torch.from_numpy(half).requires_grad_()):
        assert (small().fit(given, y).predict_proba(given) == plain).all()


def test_the_same_seed_is_the_same_classifier_and_torchs_generator_is_left_alone(clusters):
    X, y = clusters(5, OLD)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (small().fit(X, y).predict_proba(X) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first == second).all()
    other = small(random_state=np.random.RandomState(1)).fit(X, y).predict_proba(X)
    assert not (first == other).all()


def test_examples_of_weight_zero_are_dropped_wholly(clusters):
    X, y = clusters(6, [0, 2, 4])
    weight = np.r_[np.tile([1.0, 1, 0], 4), np.zeros(6)]
    ours = small().fit(X, y, sample_weight=weight)
    kept = small().fit(X[weight > 0], y[weight > 0])
    assert ours.classes_.tolist() == NAMES[[0, 2]].tolist()
    assert (ours.predict_proba(X) == kept.predict_proba(X)).all()


def rare_and_frequent():
    g = np.random.default_rng(0)
    y = np.r_[np.zeros(400, int), np.ones(12, int)]
    return g.normal(size=(412, 6)) + np.outer(y, [1.2, 0, 0, 0, 0, 0]), y


def recall(found):
    return found.predict(np.random.default_rng(1).normal(size=(500, 6)) + [1.2, 0, 0, 0, 0, 0]).mean()


def test_balanced_weights_raise_the_recall_of_rare_classes():
    X, y = rare_and_frequent()
    plain, balanced = small().fit(X, y), small(class_weight="balanced").fit(X, y)
    assert recall(balanced) > recall(plain) + 0.3
    own = {0: 412 / 800, 1: 412 / 24}
    weights = np.where(y == 1, own[1], own[0])
    expected = balanced.predict_proba(X)
    for same in (small(class_weight=own).fit(X, y), small().fit(X, y, sample_weight=5 * weights)):
        assert np.allclose(same.predict_proba(X), expected, atol=1e-4)


def test_going_on_keeps_what_is_known_and_trains_what_came(trained, clusters):
    X, y = clusters(15)
    trained.partial_fit(*clusters(1, [3])).set_unknown_threshold(clusters(2, OLD)[0])
    rows_of = dict(zip(trained.classes_, trained._known.rows, strict=True))
    trained.set_params(warm_start=True, epochs=4, least_steps=50).fit(X, y)
    assert trained.classes_.tolist() == NAMES.tolist()
    assert {label: row for label, row in zip(NAMES, trained._known.rows, strict=True) if label in rows_of} == rows_of
    assert trained._rows.used == trained._rows.head.num_classes == 20
    assert trained.n_iter_ == 25
    assert trained.unknown_threshold_ is None
    assert trained.score(*clusters(20)) > 0.95
    with pytest.warns(UserWarning, match="10 of the classes known have no example in y"):
        trained.fit(*clusters(5, NEW))
    assert trained.set_params(warm_start=False).fit(*clusters(5, NEW)).classes_.tolist() == NAMES[NEW].tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"least_steps": -1}, "least_steps is -1"),
        ({"price": 0}, "price is 0"),
        ({"class_weight": "even"}, "class_weight"),
    ],
)
def test_settings_that_are_none(clusters, options, words):
    with pytest.raises(ValueError, match=words):
        small(**options).fit(*clusters(3, OLD))


def test_bad_data(clusters):
    X, y = clusters(3, OLD)
    with pytest.raises(InputError, match="y holds one class, 'class 00'"):
        small().fit(*clusters(3, [0]))
    with pytest.raises(InputError, match="y holds one class"):
        small().partial_fit(*clusters(3, [0]), classes=NAMES)
    for bad, words in ((X * np.nan, "NaN"), (X[:4], "inconsistent"), (X[:0], "0 sample"), (X[:, :0], "0 feature")):
        with pytest.raises(ValueError, match=words):
            small().fit(bad, y)
    for weight, words in ((-np.ones(30), "expected 0 or more"), (np.zeros(30), "non-zero"), (np.ones(5), "shape")):
        with pytest.raises(ValueError, match=words):
            small().fit(X, y, sample_weight=weight)


def test_on_real_texts_one_example_finds_what_was_never_trained(shared_data):
    """Sixty frequent classes of ICD-10 texts, a third of which come later."""
    archive = np.load(shared_data / "icd" / "icd-minilm.npz")
    labels, counts = np.unique(archive["y"], return_counts=True)
    chosen = labels[np.argsort(-counts, kind="stable")[:60]]
    rows = np.concatenate([np.flatnonzero(archive["y"] == label)[:40] for label in chosen])
    h, y = archive["h"][rows], np.repeat(np.arange(60), 40)
    held = np.arange(len(y)) % 4 == 0
    old, first = y % 3 > 0, np.isin(np.arange(len(y)) % 40, [1, 2])
    found = FirstSightClassifier(random_state=0).fit(h[old & ~held], y[old & ~held])
    before = found.score(h[old & held], y[old & held])
    found.partial_fit(h[~old & first], y[~old & first])
    assert found.score(h[old & held], y[old & held]) > before - 0.03
    assert before > 0.85
    assert found.score(h[~old & held], y[~old & held]) > 0.5
