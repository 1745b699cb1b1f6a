"""``firstsight sweep lm`` with processes that train: it outlives the death of each, on SQLite and PostgreSQL."""

import io
import json
import os
import signal
import sqlite3
from importlib import import_module
from pathlib import Path

import postgres
import pytest
from command import assert_refused, call, start
from forked import ForkedCommand, is_free, start_with, wait_for
from rich.console import Console
from searches import BASE, finished_once, write_search

import firstsight.lab.studies.search.work  # noqa: F401 - once, in place of once in every fork
from firstsight.lab.cli.sweep.live import LiveTable
from firstsight.lab.data import open_corpus
from firstsight.lab.lm.config import load_config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.training import train as train_run
from firstsight.lab.studies.search.points import trials_of
from firstsight.lab.studies.search.storage import open_storage, open_study, storage_url

GRID = {"hidden": [8, 12], "dropout": [0.0, 0.2]}
BEAT = "--heartbeat=2"


def kill_worker(find) -> None:
    """SIGKILL, from a fork of this process, to the worker that ``find`` gives once it gives one."""
    if not os.fork():
        try:
            wait_for(find)
            os.kill(find(), signal.SIGKILL)
        finally:
            os._exit(0)


def busy_worker(out: Path, not_in: frozenset[int] = frozenset()) -> int | None:
    """The process of a trial in the folder's storage whose run has been validated, and goes on."""
    if not (out / "sweep.db").exists():
        return None
    question = """SELECT w.value_json, p.value_json FROM trials t
        JOIN trial_user_attributes w ON w.trial_id = t.trial_id AND w.key = 'worker'
        JOIN trial_user_attributes p ON p.trial_id = t.trial_id AND p.key = 'point' WHERE t.state = 'RUNNING'"""
    try:
        with sqlite3.connect(out / "sweep.db", timeout=60) as storage:
            found = storage.execute(question).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return None
    for worker, point in found:
        metrics = out / f"runs/{int(point):04d}/0/metrics.jsonl"
        pid = int(json.loads(worker).split(":")[1])
        if pid not in not_in and metrics.exists() and metrics.read_bytes():
            return pid
    return None


def attempts(found: dict) -> int:
    return sum(point["attempts"] for point in found["points"])


def undisturbed(data: Path, folder: Path, settings: dict, **base) -> float:
    config = recipe("small").replace(**{**BASE, **base, **settings})
    return train_run(open_corpus(data), folder, config).best_perplexity


def test_killed_in_every_way_it_goes_on_to_the_same_numbers(data, tmp_path, capfd, monkeypatch):
    base = {"steps": 1500, "eval_every": 100, "checkpoint_every": 50}
    path, out = write_search(tmp_path, base, grid=GRID), tmp_path / "out"
    command = ["sweep", "lm", data, "--grid", path, "--out", out, "--workers=2", BEAT]

    start_with(monkeypatch)
    process = ForkedCommand(tmp_path / "log", *command)
    wait_for(lambda: busy_worker(out), process)
    process.kill()  # its workers end by themselves, save, and put their trials back
    (slot,) = (out / "workers").iterdir()
    wait_for(lambda: is_free(slot))
    study = open_study(open_storage(storage_url(None, out)), "out")
    ends = {t.user_attrs.get("ended") for trials in trials_of(study).values() for t in trials if t.state.is_finished()}
    assert "SIGTERM" in ends
    before = {t.number for t in study.get_trials() if t.state.name == "COMPLETE"}

    kill_worker(lambda: busy_worker(out))
    code, text, err = call(capfd, *command, "--json")
    assert code == 0, err
    assert "Not every worker lived to the end, but nothing is left undone" in err
    assert "to do: about " in err
    assert "killed by SIGKILL" in err
    found = json.loads(text)
    assert (found["states"], found["left"]) == ({"done": 4}, 0)
    assert finished_once(study, 4)
    assert before <= {t.number for t in study.get_trials() if t.state.name == "COMPLETE"}
    assert "resumed at step" in "".join(log.read_text() for log in out.glob("workers/*/*/log.txt"))
    again = [point for point in found["points"] if point["attempts"] > 1]
    assert len(again) >= 2  # of the command's two workers at the least
    for point in again[:2]:
        expected = undisturbed(data, tmp_path / f"plain-{point['point']}", point["settings"], **base)
        assert point["perplexity"] == expected
    assert found["points"] == sorted(found["points"], key=lambda point: point["perplexity"])

    tried = attempts(found)
    code, text, err = call(capfd, *command, "--json")  # all is done, and nothing is done again
    assert code == 0, err
    assert attempts(json.loads(text)) == tried
    assert "2 of them done already" in err

    where, config = load_config(out / "best.yaml")
    assert (where, config) == (str(data), recipe("small").replace(**{**BASE, **base, **found["best"]["settings"]}))
    assert_refused(call(capfd, *command, "--seeds=2"), "the search out was made otherwise: seeds was [0], now [0, 1]")


def test_a_signal_puts_its_trial_back(data, tmp_path, capfd):
    path, out = (
        write_search(tmp_path, {"steps": 1000000, "checkpoint_every": 0}, grid={"hidden": [8]}),
        tmp_path / "out",
    )
    process = start("sweep", "lm", data, "--grid", path, "--out", out, "--workers=1", "--json")
    wait_for(lambda: busy_worker(out), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = json.loads(text)
    assert (found["interrupted"], found["states"], found["best"]) == ("SIGINT", {"waiting": 1}, None)
    assert (out / "runs/0000/0/checkpoints/last.pt").exists()
    assert (out / "report.html").exists()


@pytest.mark.skipif(postgres.binaries() is None, reason="no PostgreSQL server is installed")
def test_two_machines_on_a_postgresql(data, tmp_path, capfd, monkeypatch):
    """Their folders are their own: a dead machine's trial is run anew on the other, to the same numbers."""
    base = {"steps": 120, "eval_every": 10}
    path = write_search(tmp_path, base, grid=GRID)
    one, other = tmp_path / "one", tmp_path / "other"
    with postgres.running() as url:
        shared = ["sweep", "lm", data, "--grid", path, "--storage", url, "--study=mine", "--workers=1", BEAT]
        start_with(monkeypatch)
        process = ForkedCommand(tmp_path / "log", *shared, "--out", one)
        wait_for(lambda: any(metrics.read_bytes() for metrics in one.glob("runs/*/0/metrics.jsonl")), process)
        study = open_study(open_storage(storage_url(url, one)), "mine")
        busy = ""

        def at_work():  # it may be between two trials just now
            nonlocal busy
            running = [trial for trial in study.get_trials() if trial.state.name == "RUNNING"]
            busy = next((trial.user_attrs["worker"] for trial in running if "worker" in trial.user_attrs), "")
            return busy

        wait_for(at_work, process)
        os.kill(int(busy.split(":")[1]), signal.SIGKILL)
        process.kill()

        code, text, err = call(capfd, *shared, "--out", other, "--json")
        assert code == 0, err
        found = json.loads(text)
        assert found["states"] == {"done": 4}
        assert finished_once(study, 4)
        assert 2 in {point["attempts"] for point in found["points"]}
        log = "".join(path.read_text() for path in other.glob("workers/*/*/log.txt"))
        assert "gives no more signs of life; another takes it up" in log
        for point in [point for point in found["points"] if point["attempts"] == 2]:
            expected = undisturbed(data, tmp_path / f"plain-{point['point']}", point["settings"], **base)
            assert point["perplexity"] == expected
        assert found["storage"] == url

        code, text, err = call(capfd, "sweep", "show", other, "--json")
        assert code == 0, err
        assert json.loads(text)["points"] == found["points"]
        assert json.loads(text)["command"] == found["command"]  # the search's, not that of the look
    assert_refused(call(capfd, "sweep", "show", other), f"the storage {url} does not answer", "Is its server up")


def test_the_live_table(monkeypatch):
    written = io.StringIO()
    for module in ("firstsight.lab.cli.sweep.live", "firstsight.lab.system.progress"):
        console = Console(file=written, force_terminal=True, width=100, highlight=False)
        monkeypatch.setattr(import_module(module), "console", console)
    point = {"settings": {"lr": 0.00123456}, "perplexity": None, "deviation": None, "seeds": {}}
    one, two = ({**point, "point": n, "state": "running"} for n in range(2))
    found = {"study": "mine", "dataset": "text", "space": {"lr": [1]}, "best": None, "left": 2, "seconds_left": None}
    with LiveTable() as table:
        table.look({**found, "points": [one, two], "states": {"running": 2}})
        assert "2 points, 0 of them done before" in written.getvalue()
        assert "at work" in written.getvalue()
        one |= {"state": "done", "perplexity": 12.5, "deviation": 0.5, "seeds": {"0": 12, "1": 13}}
        best = {"best": {"settings": one["settings"], "perplexity": 12.5}, "left": 1, "seconds_left": 90.0}
        table.look({**found, **best, "points": [one, two], "states": {"done": 1, "running": 1}})
    line = "1 of 2: point 0, lr=0.001235: perplexity 12.50; best so far 12.50; about 1 min 30 s left"
    assert line in written.getvalue()
    assert "± 0.50" in written.getvalue()


def test_a_dry_run_tells_the_cost_and_writes_nothing(data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_search(tmp_path, {"steps": 100}, grid=GRID)
    before = sorted(tmp_path.rglob("*"))
    code, text, err = call(capfd, "sweep", "lm", data, "--grid", path, "--dry-run", "--workers=2", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert [point["settings"] for point in found["points"]][1] == {"hidden": 8, "dropout": 0.2}
    assert found["tokens"] == 4 * 100 * 40
    assert found["seconds"] == pytest.approx(2 * found["seconds_left"])
    costs = {point["settings"]["hidden"]: point["seconds"] for point in found["points"]}
    assert 0 < costs[8] < costs[12]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--grid=nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["--trials=3"], "the paper's grid has 96 points"),
        (["--seeds=0"], "seeds is 0"),
        (["--workers=0", "--scale=cpu"], "workers is 0"),
        (["--heartbeat=0", "--scale=cpu"], "heartbeat is 0"),
        (["--storage=mysql://h/x", "--scale=cpu"], "expected sqlite:///FILE, or postgresql://"),
    ],
)
def test_refused(flags, said, data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capfd, "sweep", "lm", data, "--out", tmp_path / "out", *flags), said)


def test_a_sweep_that_is_not_there(data, tmp_path, capfd):
    assert_refused(call(capfd, "sweep", "show", tmp_path), "sweep.json: there is no such file")
    assert_refused(
        call(capfd, "sweep", "lm", tmp_path / "no", "--scale=cpu", "--out", tmp_path / "out"), "no such folder"
    )
    assert_refused(call(capfd, "sweep", "lm", "--scale=cpu"), "no data was named")


def test_train_takes_a_file_of_settings(data, trained, tmp_path, capfd):
    flags = ["--config", trained / "config.yaml", "--steps=7", "--json"]
    code, text, err = call(capfd, "train", data, "--out", tmp_path / "run", *flags)
    assert code == 0, err
    theirs, ours = load_config(trained / "config.yaml")[1], load_config(tmp_path / "run/config.yaml")[1]
    assert ours == theirs.replace(steps=7)
    assert json.loads(text)["step"] == 7
    both = ["--config", trained / "config.yaml", "--recipe=demo"]
    assert_refused(call(capfd, "train", data, "--out", tmp_path / "other", *both), "Give one of them")
    assert_refused(
        call(capfd, "train", data, "--out", tmp_path / "x", "--config", tmp_path / "no"), "there is no such file"
    )
