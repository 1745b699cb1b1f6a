"""A small data folder and a trained run, made once; tests that damage them take a copy."""

from pathlib import Path

import pytest
from command import TINY, write_text

from firstsight.lab import cli


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    text = write_text(folder / "text.txt")
    assert cli.main(["data", "text", "--from", str(text), "--out", str(folder / "data"), "--min-count", "1"]) == 0
    return folder / "data"


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same text with another vocabulary: the rare words are <unk>."""
    folder = tmp_path_factory.mktemp("other")
    text = write_text(folder / "text.txt")
    assert cli.main(["data", "text", "--from", str(text), "--out", str(folder / "data"), "--min-count", "20"]) == 0
    return folder / "data"


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert cli.main(["train", str(data), "--out", str(folder), *TINY]) == 0
    return folder
