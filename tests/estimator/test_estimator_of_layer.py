"""A classifier made of a layer that was trained elsewhere: as if fit had trained it."""

import copy

import numpy as np
import pytest
import torch
from clusters_of_names import NAMES, NEW, OLD

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.estimator import FirstSightClassifier, Scaling
from firstsight.fitting import fit_head


def parts(found):
    return copy.deepcopy(found._rows.head), found._known.label_of_row, found._scaling


@pytest.mark.parametrize("order", ["sorted", "of arrival"])
def test_it_is_what_was_fitted(trained, clusters, tmp_path, order):
    if order == "of arrival":
        trained.partial_fit(*clusters(1, [13])).partial_fit(*clusters(1, [5]))
        trained._rows.trim()
    layer, labels, scaling = parts(trained)
    made = FirstSightClassifier.from_layer(layer, labels.tolist(), scaling, random_state=0, least_steps=150)
    X, y = clusters(3)
    settings = {"T": 100, "gamma": 0.02}  # which the layer's None have become
    assert made.get_params() == trained.get_params() | settings
    for step in range(3):
        assert made.classes_.tolist() == trained.classes_.tolist(), step
        assert (made.predict_proba(X) == trained.predict_proba(X)).all()
        arrivals = clusters(1, NEW)
        for one in (made, trained):
            one.partial_fit(*arrivals).forget(NAMES[2 * step + 1])
    made.save(tmp_path / "a")
    again = FirstSightClassifier.load(tmp_path / "a")
    for one in (made, trained, again):
        one.set_params(warm_start=True, least_steps=20).fit(X, y)
    assert (made.predict(X) == trained.predict(X)).all()
    assert (made.predict_proba(X) == again.predict_proba(X)).all()
    assert made.set_unknown_threshold(X).is_known(X).any()


def test_of_an_own_loop_on_vectors_as_they_are_and_neither_reaches_the_other(clusters):
    X, y = clusters(15, OLD)
    names, target = np.unique(y, return_inverse=True)
    scale = 7.0
    layer, h = HebbianSoftmax(24, 10), torch.from_numpy(X / scale).float()
    fit_head(layer, h, torch.from_numpy(target), rate=0.2, epochs=12, least_steps=150)
    made = FirstSightClassifier.from_layer(layer, names, Scaling(np.zeros(24), length=scale), epochs=3)
    assert np.allclose(made.decision_function(X), layer(h).detach().numpy(), atol=1e-5)
    before = layer.weight.clone()
    made.partial_fit(*clusters(1, NEW))
    assert made.score(*clusters(10, NEW)) > 0.5
    made.set_params(warm_start=True, least_steps=3).fit(*clusters(2))
    assert torch.equal(layer.weight, before)
    assert layer.num_classes == 10
    assert made.get_params()["epochs"] == 3


def test_what_the_layer_was_made_with_is_kept(clusters, tmp_path):
    X, y = clusters(15, OLD)
    layer = HebbianSoftmax(24, 10, T=33, rule="sight", objective="softmax", price=0.5, cap=0.2, dtype=torch.float64)
    target = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    fit_head(layer, torch.from_numpy(X), target, rate=0.2, epochs=12, least_steps=60)
    FirstSightClassifier.from_layer(layer, range(10), Scaling(np.zeros(24))).save(tmp_path / "a")
    again = FirstSightClassifier.load(tmp_path / "a")
    head = again._rows.head
    assert (head.T, head.objective, head.price, head.cap) == (33, "softmax", 0.5, 0.2)
    assert (again.T, again.rule, again.price) == (33, "sight", 0.5)
    again.partial_fit(clusters(1, [1])[0], [10])
    assert again.classes_.tolist() == list(range(11))


def test_of_a_linear_layer_that_was_shown_its_data(trained, clusters):
    X, y = clusters(15, OLD)
    h, target = trained._scaling.scaled(X), torch.from_numpy(np.unique(y, return_inverse=True)[1])
    layer = HebbianSoftmax.from_linear(trained._rows.head.to_linear(), "trained")
    with layer.looking():
        layer.loss(h, target)
    made = FirstSightClassifier.from_layer(layer, NAMES[OLD], trained._scaling).partial_fit(*clusters(1, NEW))
    assert made.score(*clusters(10, NEW)) > 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": Softmax(24, 10)}, "layer is a Softmax; expected a HebbianSoftmax"),
        ({"layer": HebbianSoftmax(24, 10, bias=False)}, "no bias"),
        ({"layer": HebbianSoftmax(24, 10, record=True)}, "record=True"),
        ({"labels": NAMES[:9]}, r"labels are 9, of them 9 different; expected one of each row, 10"),
        ({"labels": [*NAMES[:9], NAMES[0]]}, "labels are 10, of them 9 different"),
        ({"labels": [1, "1"] * 5}, "several kinds"),
        ({"scaling": Scaling(np.zeros(23))}, r"mean of \[23\]"),
        ({"scaling": Scaling(np.full(24, np.nan))}, "finite"),
        ({"scaling": Scaling(np.zeros(24), length=0.0)}, "length 0"),
        ({"scaling": Scaling(np.zeros(24), unit=float("inf"))}, "unit inf"),
        ({"T": 5, "rule": "paper"}, "rule and T are the layer's"),
    ],
)
def test_what_does_not_fit_is_refused(trained, change, words):
    layer, labels, scaling = parts(trained)
    with pytest.raises(InputError, match=words):
        FirstSightClassifier.from_layer(**({"layer": layer, "labels": labels, "scaling": scaling} | change))
