"""Each answer against a plain computation from rows, biases and the order in which classes came."""

import numpy as np
import pytest
from clusters_of_names import NAMES, NEW, OLD
from scipy.special import log_softmax, logsumexp
from sklearn.exceptions import NotFittedError

from firstsight import InputError
from firstsight.estimator import FirstSightClassifier, rows


def plain_logits(found, X):
    """Logits [N, C] by classes, from the parts that a file would hold."""
    scaling, head, known = found._scaling, found._rows.head, found._known
    x = (X / scaling.unit - scaling.mean_D) / scaling.length
    logits = x @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    return np.stack([logits[:, row] if row >= 0 else np.full(len(X), -np.inf) for row in known.rows], 1)


@pytest.fixture
def grown(trained, clusters):
    """With classes that came in another order than theirs, one of them declared only."""
    trained.partial_fit(*clusters(2, [9]))
    trained.partial_fit(*clusters(1, [1, 3]), classes=[*NAMES[[1, 3]], "never met"])
    return trained


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_answers_are_those_of_the_rows(grown, clusters, monkeypatch):
    monkeypatch.setattr(rows, "_LOGITS", 50)  # so that there are many blocks
    X, _ = clusters(2)
    logits = plain_logits(grown, X)
    assert grown.classes_.tolist() == sorted([*NAMES[OLD], *NAMES[[1, 3, 9]], "never met"])
    assert np.allclose(grown.decision_function(X), logits, atol=1e-4)
    expected = log_softmax(logits, axis=1)
    assert np.allclose(grown.predict_log_proba(X), expected, atol=1e-4)
    assert np.allclose(grown.predict_proba(X), np.exp(expected), atol=1e-5)
    assert (grown.predict(X) == grown.classes_[logits.argmax(1)]).all()
    labels, chances = grown.top_k(X, 4)
    order = np.argsort(-logits, axis=1)[:, :4]
    assert (labels == grown.classes_[order]).all()
    assert np.allclose(chances, np.take_along_axis(np.exp(expected), order, 1), atol=1e-5)
    assert np.allclose(grown.unknown_score(X), logsumexp(logits, axis=1) - logits.max(1), atol=1e-4)


def test_of_two_classes_the_decision_is_one_number(clusters):
    X, y = clusters(4, [0, 1])
    found = FirstSightClassifier(random_state=0, least_steps=60).fit(X, y)
    assert np.allclose(found.decision_function(X), np.diff(plain_logits(found, X), axis=1)[:, 0], atol=1e-4)
    assert ((found.decision_function(X) > 0) == (found.predict(X) == NAMES[1])).all()


@pytest.mark.parametrize("k", [0, 11])
def test_more_answers_than_classes_are_refused(trained, clusters, k):
    with pytest.raises(InputError, match=f"k is {k}; expected 1 to .* 10"):
        trained.top_k(clusters(1, [0])[0], k)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_known_examples_are_called_known_as_often_as_was_asked(trained, clusters, share):
    X, y = clusters(60, OLD)
    trained.set_unknown_threshold(X, y, known_share=share)
    scores = np.sort(trained.unknown_score(X))
    assert trained.unknown_threshold_ == scores[int(np.ceil(601 * share)) - 1]
    found = trained.is_known(clusters(300, OLD)[0]).mean()
    # 600 examples set it and 3,000 ask: a standard deviation of at most 0.023
    assert found == pytest.approx(share, abs=0.08)
    assert trained.is_known(clusters(60, NEW)[0]).mean() < found - 0.1  # new ones less often


@pytest.mark.parametrize(
    ("n", "share", "words"),
    [(18, 0.95, "19 at least"), (98, 0.99, "99 at least"), (50, 1.0, "between 0 and 1"), (50, 0, "between 0 and 1")],
)
def test_a_threshold_that_nobody_can_set_is_refused(trained, clusters, n, share, words):
    with pytest.raises(InputError, match=words):
        trained.set_unknown_threshold(clusters(20, OLD)[0][:n], known_share=share)
    assert trained.unknown_threshold_ is None
    with pytest.raises(NotFittedError, match="set_unknown_threshold"):
        trained.is_known(clusters(1, [0])[0])


def test_nineteen_examples_are_enough_for_95_percent_and_must_be_of_known_classes(trained, clusters):
    X, y = clusters(2, OLD)
    trained.set_unknown_threshold(X[:19], y[:19])
    assert trained.unknown_threshold_ == trained.unknown_score(X[:19]).max()
    with pytest.raises(InputError, match="'class 01' is no class that is known, nor are 39 others"):
        trained.set_unknown_threshold(*clusters(4, NEW))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        trained.set_unknown_threshold(X, y[:5])


def test_nothing_is_answered_before_fit(clusters):
    for method in ("predict", "predict_proba", "decision_function", "unknown_score", "is_known"):
        with pytest.raises(NotFittedError):
            getattr(FirstSightClassifier(), method)(clusters(1)[0])
