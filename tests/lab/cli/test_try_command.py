"""``firstsight try`` as a user meets it; what computes is made up."""

import json
import types
from pathlib import Path

import pytest
from command import assert_refused, call
from trial_fakes import TEXTS, fake_trial

from firstsight.lab.system.files import write_json


@pytest.fixture
def asked(monkeypatch):
    """What the command asked for, in place of a trial that takes minutes."""
    found = {}

    def read_source(path, **options):
        found.update(source=path, **options)
        return "a source"

    def run_trial(source, settings, out, *, file, **options):
        found.update(given=source, settings=settings, out=out, file=file, run=options)
        trial = fake_trial()
        write_json(out / "trial.json", trial)
        return trial

    for name, made in (
        ("data.docstrings.docstrings", lambda: "docstrings"),
        ("data.source.read_source", read_source),
        ("trial.run_trial", run_trial),
        ("data.prepared.open_prepared", lambda folder: types.SimpleNamespace(texts=TEXTS)),
    ):
        monkeypatch.setattr(f"firstsight.lab.classify.{name}", made)
    return found


def test_a_file(asked, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    given = ["--text", "what", "--label", "kind", "--split", "part", "--encoder", "mini", "--budget", "3",
             "--workers", "2", "--max-rows", "500", "--shots", "2", "--new-share", "0.2", "--body", "mlp"]  # fmt: skip
    code, out, err = call(capfd, "try", "my data.csv", *given)
    assert code == 0, err
    assert (asked["source"], asked["given"]) == (Path("my data.csv"), "a source")
    assert {name: asked[name] for name in ("text", "label", "split", "max_rows")} == {
        "text": "what", "label": "kind", "split": "part", "max_rows": 500}  # fmt: skip
    assert asked["run"] == {"encoder": "mini", "budget": 3.0, "workers": 2}
    assert (asked["settings"].shots, asked["settings"].new_share, asked["settings"].body) == (2, 0.2, "mlp")
    assert asked["out"] == Path("runs/try-my data")
    assert asked["file"] == Path("my data.csv")
    trial = json.loads((tmp_path / "runs/try-my data/trial.json").read_text())
    assert trial["paste"] in out
    words = " ".join(out.split())
    assert trial["advice"] in words
    for text in ("5,123 rows, 420 classes, 384 features", "90 below 5", "Report: runs/try-my data/report.html",
                 "HebbianSoftmax, write * │", "5 rows had no text"):  # fmt: skip
        assert text in words, text
    assert (tmp_path / "runs/try-my data/report.html").exists()


def test_json_alone(asked, tmp_path, capfd):
    code, out, err = call(capfd, "try", "x.npz", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "out/trial.json").read_text())
    assert asked["run"] == {"encoder": None, "budget": 20.0, "workers": None}


def test_demo(asked, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capfd, "try", "--demo")
    assert code == 0, err
    assert (asked["given"], asked["out"]) == ("docstrings", Path("runs/try-demo"))
    assert asked["run"]["budget"] == 4.0
    assert (asked["settings"].seeds, asked["settings"].epochs) == (2, 8)
    assert asked["file"] is None
    assert call(capfd, "try", "--demo", "--seeds", "5")[0] == 0
    assert (asked["settings"].seeds, asked["settings"].epochs) == (5, 8)


def test_mistakes(asked, capfd):
    for flags, said in (
        ([], "There is nothing to try. Give a file, firstsight try DATA"),
        (["x.csv", "--demo"], "Both x.csv and --demo were given"),
        (["--demo", "--label", "a"], "--label a: that names a column of a file, and --demo reads none"),
        (["x.csv", "--budget", "0"], "budget is 0.0; expected a number of minutes above 0"),
        (["x.csv", "--budget", "nan"], "budget is nan; expected a number of minutes above 0"),
        (["x.csv", "--max-rows", "0"], "max_rows is 0; expected 1 or more rows"),
        (["x.csv", "--shots", "3"], "shots is 3; expected one of 1, 2, 5, 10"),
        (["x.csv", "--new-share", "1"], "new_share is 1.0; expected a share between 0 and 1"),
    ):
        assert_refused(call(capfd, "try", *flags), said)
    assert asked == {}


def test_help_says_what_it_costs_and_shows_examples(capfd):
    code, out, _ = call(capfd, "try", "--help")
    assert code == 0
    assert "It costs the minutes of --budget on this machine, 20 by default" in out
    for example in ("try vectors.npz", "try tickets.csv --text subject --label queue --budget 5", "try --demo"):
        assert f"Example: firstsight {example}" in out
