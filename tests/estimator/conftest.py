"""Clusters to classify, and a classifier that was trained on some of them."""

import copy

import numpy as np
import pytest
from clusters_of_names import NAMES, OLD

from firstsight.estimator import FirstSightClassifier


@pytest.fixture(scope="session")
def clusters():
    """Draw [20 n, 24] vectors around 20 fixed centres, and the names of these; every call draws others."""
    g = np.random.default_rng(0)
    centres = g.normal(size=(20, 24))

    def draw(n: int, which=range(20)) -> tuple[np.ndarray, np.ndarray]:
        at = np.repeat(np.asarray(which), n)
        return centres[at] + 0.6 * g.normal(size=(len(at), 24)), NAMES[at]

    return draw


@pytest.fixture(scope="session")
def _trained(clusters):
    return FirstSightClassifier(random_state=0, least_steps=150).fit(*clusters(15, OLD))


@pytest.fixture
def trained(_trained):
    """Of the ten even classes, 15 examples each; nobody else's."""
    return copy.deepcopy(_trained)
