"""``firstsight data gutenberg`` killed or interrupted in the middle: run again, it ends with the same files."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from books import make_book, write_mirror
from command import run, start

from firstsight.lab.data.gutenberg.book_ids import TEST, TRAIN, VALID

BOOKS = (*VALID[:3], *TEST[:3], *TRAIN[:54])
# The same words each time: they are in meta.json. So each run has its own working directory.
COMMAND = ["data", "gutenberg", "--from", "../mirror", "--out", "data", "--workers", "2", "--json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the mirror, and what a run that nothing disturbs makes of it."""
    folder = tmp_path_factory.mktemp("gutenberg")
    write_mirror(folder / "mirror", {book: make_book(book, sentences=100) for book in BOOKS})
    (folder / "undisturbed").mkdir()
    code, _, err = run(*COMMAND, cwd=folder / "undisturbed")
    assert code == 0, err
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop(folder: Path, number: signal.Signals, shards: int, seconds: float) -> tuple[int, str]:
    """Start the command, signal it so many seconds after so many shards are there; exit code and standard error."""
    process = start(*COMMAND, cwd=folder)
    while len(list((folder / "data" / ".shards").glob("*.npz"))) < shards:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)  # which reads on, where a full pipe would let nobody end
    return process.returncode, err


def assert_undisturbed(folder: Path, place: Path) -> None:
    code, _, err = run(*COMMAND, cwd=folder)
    assert code == 0, err
    assert files(folder) == files(place / "undisturbed")
    assert len(files(folder)) == 9  # the vocabulary, the splits, their documents, meta.json, and digests.json of them
    assert not (folder / "data" / ".shards").exists()


def test_killed_three_times(place):
    rng = random.Random(4)
    folder = place / "killed"
    folder.mkdir()
    for shards in sorted(rng.sample(range(len(BOOKS) - 8), 3)):
        code, _ = stop(folder, signal.SIGKILL, shards, rng.uniform(0, 0.1))
        assert code == -signal.SIGKILL
        assert not (folder / "data" / "meta.json").exists()
    assert_undisturbed(folder, place)


def test_interrupted(place):
    folder = place / "interrupted"
    folder.mkdir()
    code, err = stop(folder, signal.SIGINT, 10, 0.0)
    assert (code, err.splitlines()[-1]) == (130, "firstsight: interrupted; nothing was left half-written")
    assert "Traceback" not in err
    assert not (folder / "data" / "meta.json").exists()
    assert_undisturbed(folder, place)
