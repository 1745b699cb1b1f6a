"""Class means, LDA, neighbours and logistic regression against scikit-learn, and their growth against starting anew."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from trial_data import grown, small_task

from firstsight.lab.classify.methods import logistic
from firstsight.lab.classify.methods.base import asked
from firstsight.lab.classify.methods.logistic import Logistic
from firstsight.lab.classify.methods.nearest import Nearest
from firstsight.lab.classify.methods.running import LDA, Means


@pytest.fixture(params=[0, 1, 2])
def task(request):
    return small_task(request.param, old=4 + request.param, features=5 + 3 * request.param)


def queries(task):
    return torch.cat([task.valid.old_h, task.valid.new_h])


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_means_answer_as_the_nearest_centroid_of_all_that_was_shown(task, shots):
    means = Means()
    means.fit(task)
    h, y = grown(task, shots)
    answer = means.arrived("added", task.valid.shown_h[:, :shots])(queries(task))
    assert answer.argmax(1).tolist() == NearestCentroid().fit(h, y).predict(queries(task)).tolist()


def test_the_temperature_is_the_best_of_a_grid_on_old_validation_examples(task):
    means, part = Means(), task.valid
    means.fit(task)
    least = asked(means.answer(), part.old_h, part.old_y, task.num_classes)[2].mean()
    centres = torch.stack([task.train_h[task.train_y == c].mean(0) for c in range(task.num_classes)])
    distance = torch.cdist(part.old_h, centres).square()
    grid = [torch.nn.functional.cross_entropy(-t * distance, part.old_y) for t in np.exp(np.linspace(-7, 12, 400))]
    assert float(least) == pytest.approx(float(min(grid)), abs=2e-3)


@pytest.mark.parametrize("shrinkage", [0.5, 0.1])
def test_lda_is_that_of_scikit_learn_without_its_priors(task, shrinkage):
    lda, V = LDA(shrinkage), task.num_classes
    lda.fit(task)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    # Its shrinkage standardises each class's features, ours does not: by a covariance of its own it is the same.
    theirs.set_params(shrinkage=None, covariance_estimator=_Shrunk(shrinkage)).fit(task.train_h.double(), task.train_y)
    weight, bias = lda._linear(lda.sums)
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bias, theirs.intercept_ - np.log(theirs.priors_), rtol=1e-4, atol=1e-4)
    assert len(weight) == V


class _Shrunk:
    """(1 - e) C + e (tr C / D) I."""

    def __init__(self, shrinkage):
        self.shrinkage = shrinkage

    def fit(self, x):
        c = np.cov(x.T, bias=True)
        self.covariance_ = (1 - self.shrinkage) * c + self.shrinkage * np.trace(c) / len(c) * np.eye(len(c))
        return self


def test_lda_with_examples_added_is_lda_of_all(task):
    lda, anew = LDA(0.1), LDA(0.1)
    lda.fit(task)
    h, y = grown(task, 5)
    anew.sums = type(lda.sums).of(h, y, int(y.max()) + 1)
    anew.task, anew.temperature = task, lda.temperature
    answer = lda.arrived("added", task.valid.shown_h[:, :5])(queries(task))
    torch.testing.assert_close(answer, anew.answer()(queries(task)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_neighbours_vote_as_in_scikit_learn_also_when_new_ones_come(task, neighbours):
    knn = Nearest(neighbours)
    knn.fit(task)
    for answer, (h, y) in (
        (knn.answer(), (task.train_h, task.train_y)),
        (knn.arrived("added", task.valid.shown_h[:, :5]), grown(task, 5)),
    ):
        theirs = KNeighborsClassifier(neighbours, weights="distance", algorithm="brute").fit(h.numpy(), y.numpy())
        votes = theirs.predict_proba(queries(task).numpy())
        frequencies = np.bincount(y) / len(y)
        expected = (neighbours * votes + frequencies) / (neighbours + 1)
        np.testing.assert_allclose(answer(queries(task)).exp(), expected, rtol=1e-3, atol=1e-5)


def test_a_twin_among_the_neighbours_decides_and_all_stays_finite(task):
    knn = Nearest(5)
    knn.fit(task)
    logp = knn.answer()(task.train_h)
    assert logp.isfinite().all()
    assert (logp.argmax(1) == task.train_y).all()


@pytest.mark.parametrize("old", [2, 5])
def test_logistic_regression_has_the_probabilities_of_scikit_learn_and_says_whether_it_converged(old, monkeypatch):
    task = small_task(3, old=old)
    mine = Logistic(1.0, 0)
    mine.fit(task)
    theirs = LogisticRegression(C=1.0).fit(task.train_h.numpy(), task.train_y.numpy())
    np.testing.assert_allclose(
        mine.answer()(task.test.old_h).exp(), theirs.predict_proba(task.test.old_h.numpy()), rtol=1e-3, atol=1e-4
    )
    assert mine.converged is True
    monkeypatch.setattr(logistic, "STEPS", 2)
    mine.fit(task)
    assert mine.converged is False
    again = Logistic(1.0, 0)
    again.restore(task, mine.state())
    assert again.converged is False
    torch.testing.assert_close(again.answer()(task.test.old_h), mine.answer()(task.test.old_h))
