"""``train`` without ``--out``: a folder of its own each time; and what a run says it will cost."""

import json
import re
import threading

import pytest
from command import TINY, assert_refused, call, copy

from firstsight.errors import InputError
from firstsight.lab.runs import names


def test_a_new_folder_each_time_and_told_at_the_start(data, trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/data-softmax-1").mkdir(parents=True)  # somebody else's
    code, out, err = call(capfd, "train", data, *TINY, "--head", "softmax", "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == "runs/data-softmax-2"
    assert err.splitlines()[0] == "run: runs/data-softmax-2"
    assert not list((tmp_path / "runs/data-softmax-1").iterdir())
    assert (tmp_path / "runs/data-softmax-2/result.json").exists()


def test_at_the_same_time_each_has_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, meeting = [], threading.Barrier(8)

    def begin():
        meeting.wait()
        with names.new_run(tmp_path / "text", "hebbian") as folder:
            (folder / "file").touch()
            found.append(folder.name)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"text-hebbian-{n}" for n in range(1, 9)]


def test_what_is_refused_leaves_no_folder(data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capfd, "train", data, *TINY, "--length=100000"), "Give more text")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(names, "world_size", lambda: 2)
    with (
        pytest.raises(InputError, match=r"2 processes need one folder\. Name it: --out runs/NAME"),
        names.new_run(data, "x"),
    ):
        pass
    assert not (tmp_path / "runs").exists()


def test_resume_without_a_folder_lists_the_latest(data, trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capfd, "train", data, "--resume"), "--out RUN", "runs/ holds none")
    for number in range(7):
        (copy(trained, tmp_path / f"runs/run-{number}") / "config.yaml").touch()
    said = call(capfd, "train", data, "--resume")
    listed = [f"--out runs/run-{number}" for number in (6, 5, 4, 3, 2)]
    assert_refused(said, ", ".join(listed), "and 2 older ones")


def test_a_run_says_what_it_costs_before_it_starts(data, tmp_path, capfd):
    """Within a factor of what it then takes: the machine's other work is in both."""
    flags = [*TINY[:-3], "--eval-every=200", "--checkpoint-every=0"]
    code, out, err = call(capfd, "train", data, "--out", tmp_path / "run", *flags, "--steps=400", "--json")
    assert code == 0, err
    first = err.splitlines()[0]
    told = re.fullmatch(
        r"400 steps: about (?:(\d+) min )?(\d+) s of training on this machine; --dry-run tells more", first
    )
    assert told, first
    seconds = 60 * int(told[1] or 0) + int(told[2])
    assert json.loads(out)["seconds"] / 10 - 1 <= seconds <= 10 * json.loads(out)["seconds"] + 1
    code, _, err = call(capfd, "train", data, "--out", tmp_path / "run", "--resume", "--steps=400")
    assert err.splitlines()[0].startswith("400 steps: about 0 s")
