import shutil

import pytest
from memory_runs import train_small


@pytest.fixture(scope="module")
def trained_run(corpus, tmp_path_factory):
    return train_small(corpus, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of the module's run, to be changed."""
    return shutil.copytree(trained_run, tmp_path / "run")
