"""The whole trial on small data: what it leaves, that it goes on after being killed, and whose results it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from trial_data import small_source

from firstsight.errors import InputError
from firstsight.estimator import FirstSightClassifier
from firstsight.lab.classify.data.prepared import open_prepared
from firstsight.lab.classify.methods.catalogue import METHODS
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.runs.jobs import Trials, best, choosing_jobs, measuring_jobs
from firstsight.lab.classify.runs.plan import Plan, Units
from firstsight.lab.classify.runs.winner import save_winner
from firstsight.lab.classify.settings import Trial
from firstsight.lab.classify.trial import run_trial
from firstsight.lab.system.manifest import accept
from firstsight.scaling import Scaling

SETTINGS = Trial(seeds=2, epochs=1, batch=32, new_classes=4)
FEW = ("sight", "means")
HELPERS = Path(__file__).resolve().parents[2] / "helpers"


def write_plan(out, source, methods=FEW, budget=5.0):
    """As a trial would have made it, with few methods and settings."""
    from firstsight.lab.classify.data.prepared import prepare

    plan = Plan(2, 1, 1, methods, False, True, budget, 1.0, 2)
    units = {"step": 0.001, "writing": 0.001, "ask": 1e-6, "steps": 10, "rows": 100, "logits": 1000, "kept": 10.0}
    told = {"identity": prepare(source, SETTINGS, out).identity, "settings": SETTINGS.to_dict()}
    (out / "plan.json").write_text(json.dumps({**told, "plan": plan.to_dict(), "units": units}))


def timeless(trial):
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in trial["lines"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("trial")
    write_plan(out, small_source())
    return out, run_trial(small_source(), SETTINGS, out, budget=5)


def test_it_leaves_what_it_returns_and_every_line_that_was_planned(done):
    out, trial = done
    assert json.loads((out / "trial.json").read_text()) == trial
    keys = [(line["method"], line["arrival"], line["shots"], line["part"], line["seed"]) for line in trial["lines"]]
    expected = []
    for name in FEW:
        method = METHODS[name]
        ways = [(way, k) for way in method.at_once if way != "replay" for k in (1, 2, 5, 10)]
        ways += [("none", 0), *([("epoch", 1), ("epoch", 5)] if method.trained else [])]
        seeds = range(2) if method.trained else range(1)
        expected += [(name, *way, part, seed) for way in ways for part in ("valid", "test") for seed in seeds]
    assert sorted(keys) == sorted(expected)
    assert {one["name"] for one in trial["methods"]} == set(FEW)
    assert trial["choice"]["rival"]["method"] in FEW
    assert trial["comparison"]["verdict"] in ("ours", "rival", "none")
    assert trial["plan"]["replay"] is False


def test_the_methods_learn_the_clouds_and_what_comes(done):
    best = {}
    for line in done[1]["lines"]:
        if line["part"] == "test":
            best[line["method"], line["arrival"], line["shots"]] = line
    for name, arrival in (("sight", "write"), ("means", "added")):
        assert best[name, arrival, 5]["old_micro"] > 0.7
        assert best[name, arrival, 5]["new_micro"] > 0.7
        assert best[name, "none", 0]["new_micro"] == 0


def test_the_mistakes_told_are_those_of_the_answers(done):
    out, trial = done
    prepared = open_prepared(out / "data")
    total = sum(one["count"] for one in trial["confusions"])
    choice = trial["choice"]["ours"]
    line = next(
        line
        for line in trial["lines"]
        if (line["method"], line["arrival"], line["shots"], line["part"], line["seed"])
        == (choice["method"], choice["arrival"], 5, "test", 0)
    )
    split = prepared.split
    wrong = (1 - line["old_micro"]) * len(split.test) + (1 - line["new_micro"]) * len(split.asked_test)
    assert total == pytest.approx(wrong) if len(trial["confusions"]) < 30 else total <= wrong + 0.5
    for one in trial["confusions"]:
        assert one["true"] != one["answered"]
        assert 1 <= len(one["rows"]) <= 2
        assert {prepared.labels[row] for row in one["rows"]} == {one["true"]}


def old_accuracy(trial, method, rate):
    (found,) = {
        line["old_micro"]
        for line in trial["lines"]
        if (line["method"], line["arrival"], line["part"], line["seed"], line["rate"])
        == (method, "none", "test", 0, rate)
    }
    return found


def jobs_of(out, prepared):
    """The jobs that measured, of the first seed, by method."""
    plan = json.loads((out / "plan.json").read_text())
    trials = Trials(out, prepared.identity, SETTINGS, Plan.from_dict(plan["plan"]), Units(**plan["units"]))
    return {job.method.name: job for job in reversed(measuring_jobs(trials, best(choosing_jobs(trials))))}


def test_a_writing_layer_is_saved_as_a_classifier_that_answers_as_it_did(done, tmp_path):
    out, trial = done
    prepared = open_prepared(out / "data")
    job, rows = jobs_of(out, prepared)["sight"], prepared.split.test
    clf = FirstSightClassifier.load(save_winner(job, prepared, Task(prepared), tmp_path / "winner"))
    answers = clf.predict(np.array(prepared.hidden[rows]))
    right = np.mean([a == prepared.labels[row] for a, row in zip(answers, rows, strict=True)])
    assert right == pytest.approx(old_accuracy(trial, "sight", job.setting))
    assert clf.learning_rate == job.setting


def test_a_rival_is_saved_as_its_layer(done, tmp_path):
    out, trial = done
    prepared = open_prepared(out / "data")
    saved = save_winner(jobs_of(out, prepared)["means"], prepared, Task(prepared), tmp_path / "winner")
    told, tensors = json.loads(Path(saved, "winner.json").read_text()), load_file(Path(saved, "layer.safetensors"))
    rows = prepared.split.test
    h = Scaling(**told["scaling"]).scaled(np.array(prepared.hidden[rows]))
    answers = (h @ tensors["weight"].T + tensors["bias"]).argmax(1)
    right = np.mean([told["labels"][a] == prepared.labels[r] for a, r in zip(answers, rows, strict=True)])
    assert right == pytest.approx(old_accuracy(trial, "means", None))
    assert Path(trial["winner"]).exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "report.html"):
        (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(InputError, match="this folder holds something else"):
        run_trial(small_source(), SETTINGS, tmp_path / "run", budget=5)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "report.html"]


def test_data_that_cannot_be_split_leave_no_folder(tmp_path):
    with pytest.raises(InputError, match="different examples"):
        run_trial(small_source(classes=4), SETTINGS, tmp_path / "out", budget=5)
    assert not (tmp_path / "out").exists()


def test_other_data_are_refused_before_anything_is_written(done, tmp_path):
    out = shutil.copytree(done[0], tmp_path / "copy")
    before = (out / "data" / "hidden.npy").read_bytes()
    with pytest.raises(InputError, match="these are other data"):
        run_trial(small_source(seed=9), SETTINGS, out, budget=5)
    assert (out / "data" / "hidden.npy").read_bytes() == before


def test_done_is_done(done, capsys):
    out, trial = done
    began = time.monotonic()
    again = run_trial(small_source(), SETTINGS, out, budget=5)
    assert again["lines"] == trial["lines"]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("source", "settings", "file"),
    [(small_source(1), SETTINGS, "these are other data"), (small_source(), SETTINGS.replace(shots=1), r"plan\.json")],
)
def test_other_data_or_settings_are_refused_by_name(done, tmp_path, source, settings, file):
    out = tmp_path / "copy"
    subprocess.run(["cp", "-r", done[0], out], check=True)
    with pytest.raises(InputError, match=file):
        run_trial(source, settings, out, budget=5)


def test_results_of_another_trial_in_its_folders_are_refused(done, tmp_path):
    out = tmp_path / "copy"
    subprocess.run(["cp", "-r", done[0], out], check=True)
    path = next((out / "settings" / "sight").iterdir()) / "choice.json"
    told = json.loads(path.read_text())
    told["asked"]["epochs"] = 99
    path.write_text(json.dumps(told))
    accept(path.parent)
    with pytest.raises(InputError, match=r"choice\.json.*epochs differ"):
        run_trial(small_source(), SETTINGS, out, budget=5)


@pytest.mark.parametrize("content", ["[]", "{}", '{"plan": 3', '{"plan": {"seeds": 1}, "units": {}}'])
def test_a_damaged_plan_is_named(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        run_trial(small_source(), SETTINGS, tmp_path, budget=5)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("budget", "workers", "word"), [(0, None, "budget"), (5, 0, "workers")])
def test_a_budget_or_workers_of_none_are_refused(tmp_path, budget, workers, word):
    with pytest.raises(InputError, match=word):
        run_trial(small_source(), SETTINGS, tmp_path / "out", budget=budget, workers=workers)
    assert not (tmp_path / "out").exists()


def when_free(out):
    """The trial, as soon as the jobs of the killed process have ended too."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return run_trial(small_source(), SETTINGS, out, budget=5)
        except InputError as error:
            if "is at work" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(HELPERS)!r})
from trial_data import small_source
from firstsight.lab.classify.settings import Trial
from firstsight.lab.classify.trial import run_trial
from firstsight.scaling import Scaling
run_trial(small_source(), Trial(**{SETTINGS.to_dict()!r}), Path(sys.argv[1]), budget=5)
"""


def test_killed_in_the_middle_it_goes_on_and_gives_the_same_numbers(done, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_plan(out, small_source())
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("outcomes/*/*/*/outcomes.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "trial.json").exists()
    trial = when_free(out)
    assert timeless(trial) == timeless(done[1])
    assert trial["comparison"] == done[1]["comparison"]
    assert not list(out.glob("**/*.part"))
