"""``firstsight omniglot`` and ``firstsight figure`` as a user meets them, on few small drawings."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import assert_refused, call
from curriculum_runs import prototypes
from forked import end_when, start_with

import firstsight.lab.curriculum.loop  # noqa: F401 - once, in place of once in every fork
from firstsight.lab.report.figures import curricula as figures
from firstsight.lab.report.figures import figure_10

TINY = ["--start=3", "--add=2", "--channels=4", "--batch=8", "--check-every=2", "--threshold=0.3", "--max-steps=8"]


@pytest.fixture(autouse=True)
def _drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings of 40 classes in place of the folder's, and forks in place of fresh processes."""
    for module in ("studies.curricula", "data.omniglot"):
        opened = SimpleNamespace(images=prototypes(40))
        monkeypatch.setattr(f"firstsight.lab.{module}.open_omniglot", lambda folder, opened=opened: opened)
    start_with(monkeypatch)


def test_seeds_side_by_side_then_more_of_them(tmp_path, capfd):
    given = ["omniglot", "--out", tmp_path, "--optimizer=adam", "--head=hebbian", *TINY]
    code, out, err = call(capfd, *given, "--seeds=2", "--json")
    assert code == 0, err
    found = json.loads(out)  # which refuses anything beside the one value
    [line] = found["panels"][0]["lines"]
    assert list(line["runs"]) == ["0", "1"]
    assert line["settings"]["optimizer"] == "adam"
    assert "2 jobs, 0 of them done already" in err
    kept = json.loads((tmp_path / "adam-0.006-sight.json").read_text())
    assert found == {**kept, "files": found["files"]}
    assert all(Path(file).stat().st_size for file in found["files"])
    assert (tmp_path / "adam-0.006-sight.png").exists()
    before = (tmp_path / "adam-0.006-sight/seed-1/result.json").read_bytes()

    code, out, err = call(capfd, *given, "--seeds=3")
    assert code == 0, err
    assert "3 jobs, 2 of them done already" in err
    assert "Hebbian, rule sight, Adam 0.006" in out
    assert "old 30" not in out  # the start had three classes
    assert "old 3" in out
    assert (tmp_path / "adam-0.006-sight/seed-1/result.json").read_bytes() == before
    assert (tmp_path / "adam-0.006-sight/seed-2/result.json").exists()


def test_the_first_seed_is_the_one_given(tmp_path, capfd):
    code, _, err = call(capfd, "omniglot", "--out", tmp_path, "--head=softmax", *TINY, "--seed=7", "--seeds=2")
    assert code == 0, err
    assert err.startswith("2 runs to do: about ")
    assert {path.name for path in (tmp_path / "rmsprop-0.006-softmax").iterdir()} == {"seed-7", "seed-8"}


def test_ended_by_a_signal_it_says_so_and_goes_on(tmp_path, capfd):
    given = ["omniglot", "--out", tmp_path, *TINY, "--max-steps=100000", "--save-seconds=0.01", "--seeds=1"]
    end_when(lambda: (tmp_path / "rmsprop-0.006-sight/seed-0/checkpoint.pt").exists())
    code, out, err = call(capfd, *given, "--json")
    assert code == 128 + signal.SIGTERM, err
    assert json.loads(out)["interrupted"] == "SIGTERM"
    assert json.loads(out)["panels"][0]["lines"][0]["runs"] == {}
    assert json.loads(out)["files"] == {}  # nothing that would stand over an earlier figure
    assert (tmp_path / "rmsprop-0.006-sight/seed-0/checkpoint.pt").exists()


def test_a_run_that_fails_leaves_a_figure_of_the_others(tmp_path, capfd):
    broken = tmp_path / "rmsprop-0.006-sight/seed-0/checkpoint.pt"
    broken.parent.mkdir(parents=True)
    broken.write_text("no checkpoint")
    refused = call(capfd, "omniglot", "--out", tmp_path, *TINY, "--seeds=2")
    assert_refused(refused, "1 of the jobs failed", "this is no checkpoint", "log.txt")
    kept = json.loads((tmp_path / "rmsprop-0.006-sight.json").read_text())
    assert list(kept["panels"][0]["lines"][0]["runs"]) == ["1"]


def test_figures_share_runs_and_are_drawn_from_what_is_kept(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(figures, "STEPS", {"cpu": 2, "paper": 4})
    monkeypatch.setattr(figure_10, "OPTIMIZERS", {"rmsprop": "RMSProp"})
    code, out, err = call(capfd, "figure", "11", "--out", tmp_path, "--seeds=1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [line["name"] for line in found["panels"][0]["lines"]] == [
        "0.002",
        "0.004",
        "0.006",
        "0.008",
        "0.012",
        "0.02",
    ]
    rates = [line["settings"]["lr"] for line in found["panels"][0]["lines"]]
    assert rates == [0.002, 0.004, 0, 0.008, 0.012, 0.02]
    assert {line["settings"]["head"] for line in found["panels"][0]["lines"]} == {"softmax"}
    assert found["steps"] == 2
    assert (tmp_path / "figure-11.png").exists()
    assert (tmp_path / "figure-11.json").exists()

    code, out, err = call(capfd, "figure", "10", "--out", tmp_path, "--seeds=1")
    assert code == 0, err
    assert "6 jobs, 1 of them done already" in err
    assert "Figure 10: Omniglot curriculum" in out
    assert (tmp_path / "figure-10.png").exists()

    before = (tmp_path / "figure-11.json").read_bytes()
    code, out, err = call(capfd, "figure", "11", "--out", tmp_path, "--seeds=1", "--scale=paper", "--json")
    assert code == 0, err
    assert (tmp_path / "figure-11-paper.png").exists()
    assert (tmp_path / "figure-11.json").read_bytes() == before
    assert {run["steps"] for line in json.loads(out)["panels"][0]["lines"] for run in line["runs"].values()} == {4}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["omniglot", "--threshold=0"], "threshold is 0.0; expected in (0, 1]"),
        (["omniglot", "--threshold=1.01"], "threshold is 1.01; expected in (0, 1]"),
        (["omniglot", "--start=41"], "start is 41, but the images have 40 classes"),
        (["omniglot", "--max-classes=2000"], "max_classes is 2000, but the images have 40 classes"),
        (["omniglot", "--channels=0"], "channels is 0; expected 1 or more"),
        (["omniglot", "--seeds=0"], "seeds is 0; expected 1 or more"),
        (["omniglot", "--workers=0"], "workers is 0; expected 1 or more"),
        (["figure", "11", "--seeds=-1"], "seeds is -1; expected 1 or more"),
    ],
)
def test_settings_that_cannot_be(given, said, tmp_path, capfd):
    assert_refused(call(capfd, *given, "--out", tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


def test_a_figure_that_is_none_of_ours(tmp_path, capfd):
    refused = call(capfd, "figure", "12", "--out", tmp_path / "out")
    assert_refused(refused, "there is no figure 12 to make; expected 5, 6, 7, 8, 9, 10, 11, or all")


def test_drawings_too_small_for_the_network(tmp_path, capfd, monkeypatch):
    small = SimpleNamespace(images=prototypes(40)[:, :, :15, :15])
    monkeypatch.setattr("firstsight.lab.studies.curricula.open_omniglot", lambda folder: small)
    assert_refused(call(capfd, "omniglot", "--out", tmp_path / "out"), "the images are 15 x 15; expected 16 x 16")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings(tmp_path, capfd):
    given = ["omniglot", "--out", tmp_path, *TINY, "--seeds=1"]
    assert call(capfd, *given)[0] == 0
    assert_refused(call(capfd, *given, "--T=20"), "seed-0/result.json is of another run: T was 10, now 20")


def test_data_that_is_not_there(tmp_path, capfd, monkeypatch):
    from firstsight.lab.data.omniglot.drawings import open_omniglot

    monkeypatch.setattr("firstsight.lab.studies.curricula.open_omniglot", open_omniglot)
    refused = call(capfd, "figure", "10", "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert_refused(refused, "there is no such folder", "firstsight data omniglot")
