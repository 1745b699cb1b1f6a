"""What scikit-learn asks of a classifier, and the tools that people put around one."""

import numpy as np
import pytest
from clusters_of_names import OLD
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from firstsight.estimator import FirstSightClassifier

# scikit-learn says the same of its own SGDClassifier: a weight of 2 is not two examples in the order of a training.
ALLOWED = {"check_sample_weight_equivalence_on_dense_data": "the order of examples is another"}


def test_scikit_learns_own_checks():
    found = check_estimator(
        FirstSightClassifier(least_steps=60), expected_failed_checks=ALLOWED, on_fail=None, on_skip=None
    )
    assert [(one["check_name"], one["exception"]) for one in found if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in found) > 50
    assert {one["check_name"] for one in found if one["status"] == "xfail"} <= set(ALLOWED)


def small(**options):
    return FirstSightClassifier(random_state=0, least_steps=60, **options)


def test_in_a_pipeline_with_a_search_over_it(clusters):
    X, y = clusters(6, OLD)
    pipeline = make_pipeline(StandardScaler(), small()).set_output(transform="default")
    grid = {"firstsightclassifier__price": [0.5, 1.0], "firstsightclassifier__epochs": [2]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_estimator_.score(X, y) > 0.95
    assert (cross_val_score(small(), X, y, cv=2) > 0.8).all()
    proba = cross_val_predict(small(), X, y, cv=2, method="predict_proba")
    assert (np.unique(y)[proba.argmax(1)] == y).mean() > 0.8


def test_with_data_frames_from_the_step_before(clusters):
    pandas = pytest.importorskip("pandas")
    X, y = clusters(6, OLD)
    pipeline = make_pipeline(Normalizer(), small()).set_output(transform="pandas")
    names = [f"feature {i}" for i in range(24)]
    pipeline.fit(pandas.DataFrame(X, columns=names), pandas.Series(y))
    assert pipeline[-1].feature_names_in_.tolist() == names


def test_a_clone_is_unfitted_and_has_its_own_settings():
    given = {"learning_rate": 0.1, "epochs": 3, "batch_size": 7, "least_steps": 5, "class_weight": {"a": 2.0}}
    given |= {
        "rule": "paper",
        "T": 7,
        "gamma": 0.1,
        "logit_adjustment": 0.5,
        "warm_start": True,
        "price": 0.5,
        "random_state": 4,
        "device": "cpu",
    }
    copied = clone(FirstSightClassifier(**given))
    assert copied.get_params() == given
    assert not copied.__sklearn_is_fitted__()


def test_scores_need_no_order_of_classes_but_the_sorted_one(trained, clusters):
    from sklearn.metrics import log_loss, roc_auc_score, top_k_accuracy_score

    trained.partial_fit(*clusters(1, [1, 3]))
    X, y = clusters(5, [*OLD, 1, 3])
    proba = trained.predict_proba(X)
    own = proba[np.arange(len(y)), np.searchsorted(trained.classes_, y)]
    assert log_loss(y, proba, labels=trained.classes_) == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert roc_auc_score(y, proba, multi_class="ovr", labels=trained.classes_) > 0.9
    assert top_k_accuracy_score(y, proba, k=3, labels=trained.classes_) > 0.9
