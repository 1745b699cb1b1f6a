"""An index beside a classifier: the classifier's answers where it looks everywhere, whatever is learnt since."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from clusters_of_names import NEW, OLD
from sklearn.exceptions import NotFittedError

from firstsight import HebbianSoftmax, InputError
from firstsight.estimator import FirstSightClassifier, LabelIndex, Scaling


def assert_alike(index, clf, X, k):
    labels, chances = clf.top_k(X, k)
    found, logits = index.top_k(X, k)
    assert found.tolist() == labels.tolist()
    assert index.predict(X).tolist() == labels[:, 0].tolist()
    of_label = clf.decision_function(X)[np.arange(len(X))[:, None], np.searchsorted(clf.classes_, found)]
    np.testing.assert_allclose(logits, of_label, rtol=1e-5, atol=1e-5)
    assert chances[:, 0].min() > 0


def test_it_follows_what_is_learnt(trained, clusters):
    X, _ = clusters(3)
    index = LabelIndex(trained, X, k=3, lists=4, probes=4)
    assert index.recall == 1
    assert_alike(index, trained, X, 3)
    trained.partial_fit(*clusters(1, NEW[:4]))
    assert_alike(index, trained, X, 5)
    trained.partial_fit(*clusters(2, NEW))  # moves the four, and makes others
    assert_alike(index, trained, X, 20)
    assert index.recall_of(X, 7) == 1
    with pytest.warns(UserWarning, match="nothing was learnt"):
        trained.partial_fit(*clusters(1, OLD), classes=["zz declared, not met"])
    assert_alike(index, trained, X, 20)


def test_it_follows_biases_that_others_gave_up(clusters):
    """With a cap on what new classes may win together, each one that comes takes from those that came."""
    torch.manual_seed(0)
    head = HebbianSoftmax(24, 10, cap=0.001)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    head.attach(optimizer)
    X, names = clusters(40, OLD)
    h, y = torch.from_numpy(X).float() / 5, torch.from_numpy(np.unique(names, return_inverse=True)[1])
    for step in range(60):
        at = torch.arange(step, len(h), 6)
        optimizer.zero_grad()
        head.loss(h[at], y[at]).backward()
        optimizer.step()
    clf = FirstSightClassifier.from_layer(head, np.unique(names), Scaling(np.zeros(24), unit=5.0))
    index = LabelIndex(clf, X, k=3, lists=4, probes=4)
    clf.partial_fit(*clusters(1, NEW[:2]))
    index.predict(X)
    biases = clf._rows.head.bias[10:12].clone()
    clf.partial_fit(*clusters(1, NEW[2:]))
    assert (clf._rows.head.bias[10:12] < biases).all()
    assert_alike(index, clf, np.concatenate([X, clusters(3)[0]]), 4)


def test_threads_may_ask_at_once_after_it_has_learnt(trained, clusters):
    X, _ = clusters(3)
    index = LabelIndex(trained, X, k=3, lists=4, probes=4)
    trained.partial_fit(*clusters(1, NEW))
    with ThreadPoolExecutor(6) as pool:
        found = [one.result() for one in [pool.submit(index.predict, X) for _ in range(12)]]
    assert all(one.tolist() == trained.predict(X).tolist() for one in found)
    assert_alike(index, trained, X, 20)


def test_spare_rows_are_no_answers(trained, clusters):
    trained._rows.room_for(50)
    X, _ = clusters(2)
    index = LabelIndex(trained, X, k=10, lists=2, probes=2)
    assert_alike(index, trained, X, 10)
    trained._rows.room_for(50)  # as a write does that is refused
    assert_alike(index, trained, X, 10)
    with pytest.raises(InputError, match="k is 11; expected 1 to the number of classes that were met, 10"):
        index.top_k(X, 11)


@pytest.mark.parametrize("change", ["fit", "forget", "forget and learn again", "warm"])
def test_rows_that_have_moved_are_no_answers(trained, clusters, change):
    X, y = clusters(2, OLD)
    index = LabelIndex(trained, X, k=2, lists=2)
    gone = trained.classes_[-1]
    if change == "warm":
        trained.set_params(warm_start=True)
    if change in ("fit", "warm"):
        trained.fit(X, y)
    else:
        trained.forget(gone)
    if change == "forget and learn again":
        trained.partial_fit(X[y == gone][:1], [gone])
    for ask in (lambda: index.predict(X), lambda: index.recall_of(X, 1)):
        with pytest.raises(InputError, match=r"its rows are others now; build it anew: LabelIndex\(classifier, X\)"):
            ask()
    assert LabelIndex(trained, X, k=2, lists=2, probes=2).predict(X).tolist() == trained.predict(X).tolist()


def many(V=4000, D=12):
    torch.manual_seed(1)
    linear = torch.nn.Linear(D, V)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.randn(V // 40, D).repeat_interleave(40, 0) + torch.randn(V, D))
    return FirstSightClassifier.from_layer(
        HebbianSoftmax.from_linear(linear, "trained"), [f"label {v}" for v in range(V)], Scaling(np.zeros(D))
    )


def test_of_many_it_looks_at_few_and_says_what_it_finds():
    clf, g = many(), np.random.default_rng(0)
    X = g.normal(size=(60, 12))
    index = LabelIndex(clf, X, k=10, lists=64, probes=4)
    exact, found = clf.top_k(X, 10)[0], index.top_k(X, 10)[0]
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert 0.2 < index.recall < 1
    assert index.recall == pytest.approx(by_hand)


def test_where_few_are_found_all_rows_are_looked_at():
    clf, X = many(), np.random.default_rng(0).normal(size=(9, 12))
    index = LabelIndex(clf, X, k=1, lists=64, probes=1)
    short = (index._index.topk(clf._hidden(X), 2000).indices < 0).any(1).numpy()
    assert short.sum() > 4
    assert index.top_k(X, 2000)[0][short].tolist() == clf.top_k(X[short], 2000)[0].tolist()


def test_mistakes(trained, clusters):
    X, _ = clusters(1)
    with pytest.raises(NotFittedError):
        LabelIndex(FirstSightClassifier(), X)
    with pytest.raises(InputError, match="lists is 0"):
        LabelIndex(trained, X, k=1, lists=0)
    with pytest.raises(InputError, match="k is 11"):
        LabelIndex(trained, X, k=11)
    with pytest.raises(ValueError, match="24 features"):
        LabelIndex(trained, X[:, :5], k=1)
    with pytest.raises(ValueError, match="24 features"):
        LabelIndex(trained, X, k=1, lists=2).predict(X[:, :5])
