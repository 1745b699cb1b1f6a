"""Small corpora to train on."""

import numpy as np
import pytest
from training_runs import make_corpus

from firstsight.lab.data import Corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    lines = [" ".join(words[min(39, int(i))] for i in rng.exponential(8, 9)) for _ in range(150)]
    return make_corpus(tmp_path_factory.mktemp("corpus"), lines)


@pytest.fixture(scope="session")
def song(tmp_path_factory) -> Corpus:
    """Eight words round and round: a model that learns at all knows the next one."""
    return make_corpus(tmp_path_factory.mktemp("song"), ["do re mi fa so la ti"] * 200)
