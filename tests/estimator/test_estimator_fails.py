"""A fit that fails, for whatever reason, leaves the classifier as it was; what would make a layer of NaN is refused."""

import copy

import numpy as np
import pytest
import torch
from clusters_of_names import NAMES, OLD

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.heads import HebbianSoftmax


def small(**options):
    return FirstSightClassifier(**({"random_state": 0, "least_steps": 60} | options))


def state_of(found):
    """All that a classifier is but its settings."""
    parts = {name: value for name, value in vars(found).items() if name not in found.get_params()}
    head = parts.pop("_rows").head
    tensors = {name: value.detach().clone() for name, value in head.state_dict().items()}
    return copy.deepcopy(parts), tensors, found._rows.used


def same(one, other):
    (parts, tensors, used), (theirs, of_theirs, used_theirs) = one, other
    assert used == used_theirs
    assert parts.keys() == theirs.keys()
    for name, value in parts.items():
        np.testing.assert_equal(
            getattr(value, "__dict__", value), getattr(theirs[name], "__dict__", theirs[name]), err_msg=name
        )
    assert tensors.keys() == of_theirs.keys()
    assert all(torch.equal(value, of_theirs[name]) for name, value in tensors.items())


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_fit_that_is_broken_off_changes_nothing(trained, clusters, tmp_path, monkeypatch, warm_start, error):
    trained.partial_fit(*clusters(1, [3])).set_unknown_threshold(clusters(3, OLD)[0])
    before, loss, calls = state_of(trained), HebbianSoftmax.loss, []

    def stops(*args, **options):
        calls.append(1)
        if len(calls) == 7:
            raise error
        return loss(*args, **options)

    monkeypatch.setattr(HebbianSoftmax, "loss", stops)
    with pytest.raises(error):
        trained.set_params(warm_start=warm_start, T=7, price=3.0).fit(*clusters(4))
    monkeypatch.undo()
    assert len(calls) == 7
    same(state_of(trained), before)
    head = trained._rows.head
    assert (head.T, head.price, head.training, len(head._attached)) == (100, 1.0, False, 0)
    assert set(trained.predict(clusters(2)[0])) <= {*NAMES[OLD], NAMES[3]}
    trained.save(tmp_path / "a")
    assert FirstSightClassifier.load(tmp_path / "a").classes_.tolist() == trained.classes_.tolist()


@pytest.mark.parametrize(
    "call",
    [
        lambda found, X, y: found.fit(X[:, :3], ["one class"] * len(X)),
        lambda found, X, y: found.set_params(epochs=0).fit(X[:, :3], y),
        lambda found, X, y: found.set_params(learning_rate=1e30).fit(X[:, :3], y),
        lambda found, X, y: found.set_params(warm_start=True, learning_rate=1e15).fit(X, y),
        lambda found, X, y: found.set_params(warm_start=True, rule="paper").fit(X, y),
        lambda found, X, y: found.set_params(class_weight=dict.fromkeys(y, 0)).fit(X[:, :3], y),
    ],
)
def test_a_fit_that_is_refused_changes_nothing(trained, clusters, call):
    before, (X, y) = state_of(trained), clusters(4)
    with pytest.raises(InputError):
        call(trained, X, y)
    same(state_of(trained), before)


def test_a_first_call_of_partial_fit_that_is_refused_leaves_it_unfitted(clusters):
    found = small()
    with pytest.raises(InputError, match="same kind"):
        found.partial_fit(*clusters(3, OLD), classes=[1, 2])
    assert not found.__sklearn_is_fitted__()
    assert vars(found).keys() == found.get_params().keys()


def test_a_rate_that_blows_the_rows_up_is_named(clusters):
    X, y = clusters(4, OLD)
    for rate in (1e38, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"learning_rate is .*; expected a number above 0"):
            small(learning_rate=rate).fit(X, y)
    for rate in (1e10, 1e20):
        with pytest.raises(InputError, match="lower the learning rate"):
            small(learning_rate=rate).fit(X, y)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0, "much", None])
def test_class_weights_that_are_none(clusters, weight):
    with pytest.raises(InputError, match=f"class_weight of {NAMES[2]!r} is {weight!r}; expected a number, 0 or more"):
        small(class_weight={NAMES[2]: weight}).fit(*clusters(3, OLD))


def test_weights_that_leave_nothing(clusters):
    X, y = clusters(3, [0, 2])
    with pytest.raises(InputError, match="leave no example a weight above 0"):
        small(class_weight=dict.fromkeys(y, 0)).fit(X, y)
    with pytest.raises(InputError, match=r"class_weight has 1, .*strings"):
        small(class_weight={1: 2.0}).fit(X, y)
    huge = small(class_weight={NAMES[0]: 1e308, NAMES[2]: 1e308}).fit(X, y, sample_weight=np.linspace(1, 1.5, 6))
    assert np.isfinite(huge.decision_function(X)).all()


def test_the_weight_of_a_class_that_is_not_there_does_nothing(clusters):
    X, y = clusters(4, OLD)
    plain = small(class_weight={NAMES[0]: 3}).fit(X, y)
    more = small(class_weight={NAMES[0]: 3, NAMES[1]: 5, "rare": 0}).fit(X, y)
    assert (plain.predict_proba(X) == more.predict_proba(X)).all()
    numbers = np.arange(len(y)) % 2
    weighted = small(class_weight={np.int64(1): 2.0, 7: 5}).fit(X, numbers).predict_proba(X)
    expected = small().fit(X, numbers, sample_weight=1.0 + numbers).predict_proba(X)
    assert np.allclose(weighted, expected, atol=1e-5)


@pytest.mark.parametrize("device", ["nope", "cuda:63", "meta", 2.5])
def test_a_device_that_is_not_there(trained, clusters, tmp_path, device):
    with pytest.raises(InputError, match=f"device is {device!r}"):
        small(device=device).fit(*clusters(3, OLD))
    trained.save(tmp_path / "a")
    with pytest.raises(InputError, match=f"device is {device!r}"):
        FirstSightClassifier.load(tmp_path / "a", device=device)
    with pytest.raises(InputError, match=f"device is {device!r}"):
        FirstSightClassifier.from_layer(trained._rows.head, NAMES[OLD], trained._scaling, device=device)
