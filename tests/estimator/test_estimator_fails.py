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
        lambda found, X, y: found.set_params(warm_start=True, rule="paper").fit(X, y),
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
