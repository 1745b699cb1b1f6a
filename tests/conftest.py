"""Fixtures for every test: where the real data lies, NLTK's model, and one thread."""

import os
from pathlib import Path

import pytest
import torch

# Two threads on small tensors mostly wait for each other, and one adds up in one order.
torch.set_num_threads(1)

SHARED = Path(os.environ.get("FIRSTSIGHT_SHARED", Path(__file__).resolve().parents[2] / "shared")).resolve()
if (SHARED / "nltk_data").is_dir():
    os.environ.setdefault("NLTK_DATA", str(SHARED / "nltk_data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: ``$FIRSTSIGHT_SHARED/data`` or ``../shared/data``.

    Skips where it is absent, but fails under CI, where it must not be.
    """
    folder = SHARED / "data"
    if not folder.is_dir():
        message = f"the real data is not at {folder}; set FIRSTSIGHT_SHARED to the folder that holds data/"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder
