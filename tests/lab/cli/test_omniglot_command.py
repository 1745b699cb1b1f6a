"""``firstsight data omniglot`` as a user meets it, and what the commands for text say of its folder."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from command import TINY, assert_refused, call, copy, flip, start

from firstsight.lab.data.omniglot import archives as omniglot_archives
from firstsight.lab.data.omniglot import open_omniglot


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from omniglot_zips import write_archives

    return write_archives(tmp_path_factory.mktemp("omniglot") / "archives")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    from omniglot_zips import CLASSES

    if "shared" not in request.keywords:
        monkeypatch.setattr(omniglot_archives, "CLASSES", CLASSES)


@pytest.fixture
def made(archives: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> Path:
    assert call(capfd, "data", "omniglot", "--from", archives, "--out", tmp_path / "made")[0] == 0
    return tmp_path / "made"


def test_json(archives, tmp_path, capfd):
    code, out, err = call(capfd, "data", "omniglot", "--from", archives, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)  # which refuses anything beside the one value
    assert found["classes"] == {"background": 3, "evaluation": 2}
    assert found["drawings"] == 100
    assert found["size"] == 28
    assert err.count("zipped anew, or altered") == 2
    code, out, err = call(capfd, "data", "info", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out) == found


def test_screen(archives, tmp_path, capfd):
    given = ["data", "omniglot", "--from", archives, "--out", tmp_path / "out", "--size", "20"]
    code, out, err = call(capfd, *given)
    assert code == 0, err
    assert "omniglot: 5 classes of 20, 20 x 20 pixels" in out
    rows = {line.split()[1]: line.split()[3::2] for line in out.splitlines() if line.startswith("│")}
    assert rows == {"background": ["2", "3", "60"], "evaluation": ["1", "2", "40"]}
    assert "the first 5 drawings test, the other 15 train" in out
    assert open_omniglot(tmp_path / "out").images.shape == (5, 20, 20, 20)
    assert call(capfd, "data", "info", tmp_path / "out")[1] == out


def test_mistakes(archives, tmp_path, capfd):
    out = tmp_path / "out"
    for flags, said in (
        (["--from", tmp_path / "none"], "there is no such folder. Expected the folder that holds"),
        (["--from", tmp_path], "there is no images_background.zip in this folder"),
        (["--from", archives, "--size", "5"], "The size is 5; expected 8 to 105 pixels"),
        (["--from", archives, "--cache", tmp_path], "Leave one of them out"),
    ):
        assert_refused(call(capfd, "data", "omniglot", *flags, "--out", out), said)
    damaged = copy(archives, tmp_path / "damaged")
    (damaged / "images_evaluation.zip").write_bytes((archives / "images_evaluation.zip").read_bytes()[:-100])
    found = call(capfd, "data", "omniglot", "--from", damaged, "--out", out)
    assert_refused(found, str(damaged / "images_evaluation.zip"), "cut short", "Fetch the archive anew")
    assert not out.exists() or not list(out.iterdir())


def test_a_damaged_folder(made, capfd):
    flip(made / "images.npy", 5000)
    assert_refused(call(capfd, "data", "info", made), "images.npy", "checksum", "Run firstsight data omniglot again")
    (made / "meta.json").write_text("{")
    assert_refused(call(capfd, "data", "info", made), "meta.json")


def test_what_needs_text_says_so(made, tmp_path, capfd):
    said = ("holds the drawings of Omniglot, and text is needed here", "firstsight data stdlib, text")
    assert_refused(call(capfd, "train", made, "--out", tmp_path / "run", *TINY), *said)
    assert not (tmp_path / "run").exists()
    assert_refused(call(capfd, "data", "audit", made), *said)


def test_help_shows_an_example(capfd):
    code, out, _ = call(capfd, "data", "omniglot", "--help")
    assert code == 0
    assert "Example: firstsight data omniglot --out data/omniglot" in out


@pytest.mark.shared
def test_interrupted(shared_data, tmp_path):
    """In the middle of the real drawings, in a process of its own."""
    out = tmp_path / "out"
    process = start("data", "omniglot", "--from", shared_data / "omniglot", "--out", out)
    while not any(path.stat().st_size for path in out.glob(".new/.images.npy.*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    said = "firstsight: interrupted; nothing was left half-written"
    assert (process.returncode, err.splitlines()[-1]) == (130, said)
    assert not out.exists()
