"""Many curricula as tasks: the numbers of ``run_curriculum``, once each, through ends, failures and longer runs."""

import json
import shutil
from functools import cache
from pathlib import Path
from signal import SIGTERM

import numpy as np
import pytest
from curriculum_runs import TINY, lasting, prototypes, run
from forked import Forked, end_when, is_free, start_with
from omniglot_folder import write_images

import firstsight.lab.curriculum.loop  # noqa: F401 - once, in place of once in every fork
from firstsight.errors import InputError
from firstsight.lab.curriculum.draws import image_facts
from firstsight.lab.runs.jobs import JobsFailedError
from firstsight.lab.studies.curricula import CurriculumJob, read_result, run_curricula
from firstsight.lab.system import folder
from firstsight.lab.system.folder import hold

SHORT = TINY.replace(max_steps=30)
VARIANTS = {"hebbian": SHORT, "softmax": SHORT.replace(head="softmax")}
DRAWINGS = prototypes(20, drawings=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("drawings") / "data", DRAWINGS)


class Started:
    """Stands for ``subprocess.Popen``, and keeps what was started: titles, and how many were at work at most."""

    def __init__(self) -> None:
        self.titles, self.tasks, self.most = [], [], 0

    def __call__(self, command, **options) -> Forked:
        folder = Path(json.loads(command[3])["folder"])
        self.titles.append(f"{folder.parent.name} {folder.name}")
        self.tasks.append(Forked(command, **options))
        self.most = max(self.most, sum(task.returncode is None for task in self.tasks))
        return self.tasks[-1]


@pytest.fixture
def started(monkeypatch) -> Started:
    found = Started()
    start_with(monkeypatch, found)
    return found


@pytest.fixture(scope="module")
def first(data, tmp_path_factory) -> tuple[Path, dict, Started]:
    """The folder of two variants and two seeds, what came back, and what was started."""
    out, found = tmp_path_factory.mktemp("first"), Started()
    direct("softmax", 0)  # what torch imports at its first step, every fork would import again
    with pytest.MonkeyPatch.context() as patch:
        start_with(patch, found)
        results, signal = run_curricula(data, VARIANTS, [0, 1], out, workers=1)
    assert signal == ""
    return out, results, found


@pytest.fixture
def out(first, tmp_path) -> Path:
    """A copy of the first folder, which a test may change."""
    return Path(shutil.copytree(first[0], tmp_path / "out"))


@cache
def direct(variant: str, seed: int, max_steps: int = 30) -> dict:
    """The same run by a call of ``run_curriculum``."""
    return lasting(run(DRAWINGS, VARIANTS[variant].replace(seed=seed, max_steps=max_steps)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_results_are_those_of_the_loop_called_directly(first):
    out, results, started = first
    assert started.titles == ["hebbian seed-0", "softmax seed-0", "hebbian seed-1", "softmax seed-1"]
    assert started.most == 1
    assert list(results) == list(VARIANTS)
    for variant, runs in results.items():
        assert list(runs) == [0, 1]
        for seed, result in runs.items():
            assert lasting(result) == direct(variant, seed)
            assert result["settings"] == VARIANTS[variant].replace(seed=seed).to_dict()
            assert result == json.loads((out / variant / f"seed-{seed}/result.json").read_text())
    assert direct("hebbian", 0) != direct("hebbian", 1)
    assert results["hebbian"][0]["classes"] > 4
    assert is_free(out)


def test_a_second_call_runs_nothing(data, first, out, started, capfd):
    before = contents(out)
    assert run_curricula(data, VARIANTS, [0, 1], out) == (first[1], "")
    assert run_curricula(data, {"softmax": VARIANTS["softmax"]}, [1], out)[0] == {
        "softmax": {1: first[1]["softmax"][1]}
    }
    assert run_curricula(data, {"softmax": VARIANTS["softmax"].replace(seed=7, save_seconds=3.0)}, [0], out)[1] == ""
    assert started.titles == []
    assert contents(out) == before
    assert "4 jobs, 4 of them done already" in capfd.readouterr().err


def test_more_seeds_add_only_the_new_ones(data, first, out, started):
    before = contents(out)
    results, _ = run_curricula(data, VARIANTS, [1, 2, 0], out, workers=2)
    assert sorted(started.titles) == ["hebbian seed-2", "softmax seed-2"]
    assert before.items() <= contents(out).items()
    for variant, runs in results.items():
        assert list(runs) == [1, 2, 0]
        assert runs[0] == first[1][variant][0]
        assert lasting(runs[2]) == direct(variant, 2)


def test_more_steps_go_on_from_where_it_was(data, first, out, started):
    longer = {"softmax": VARIANTS["softmax"].replace(max_steps=44)}
    results, _ = run_curricula(data, longer, [0], out, workers=1)
    assert started.titles == ["softmax seed-0"]
    found, before = results["softmax"][0], first[1]["softmax"][0]
    assert lasting(found) == direct("softmax", 0, 44)
    assert found["steps"] == 44
    assert found["settings"]["max_steps"] == 44
    assert found["records"][: len(before["records"])] == before["records"]  # with their seconds: not run again
    with pytest.raises(InputError, match=r"result\.json is of another run: it has run for 44 steps, more than the 30"):
        run_curricula(data, VARIANTS, [0], out)


@pytest.mark.parametrize("end", [{"threshold": 0.2, "max_classes": 6}, {"optimizer": "rmsprop", "lr": 1e36}])
def test_what_has_ended_for_good_is_not_run_for_more_steps(end, data, tmp_path, started, capfd):
    variants = {"a": VARIANTS["softmax"].replace(**end)}
    results, _ = run_curricula(data, variants, [3], tmp_path)
    assert results["a"][3]["reason"] == ("diverged" if "lr" in end else "classes")
    assert results["a"][3]["steps"] < 30
    assert ("diverged" in capfd.readouterr().err) == ("lr" in end)
    for steps in (60, 29):
        again, _ = run_curricula(data, {"a": variants["a"].replace(max_steps=steps)}, [3], tmp_path)
        assert again == results
    assert len(started.titles) == 1


DAMAGE = {"damaged": "{", "empty": "", "a list": "[]", "another object": '{"settings": {}, "steps": 3}'}
KEYS = ("settings", "images", "reason", "steps", "classes", "steps_to", "binding", "final", "seconds", "records")
SHELL = {key: {} for key in KEYS}
DAMAGE |= {f"{key} of another kind": json.dumps({**SHELL, key: 1.5}) for key in ("settings", "steps")}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_a_result_that_is_none_is_named(text, data, out, started):
    path = out / "softmax/seed-1/result.json"
    path.write_text(text)
    before = contents(out)
    with pytest.raises(InputError, match=r"softmax/seed-1/result\.json") as refused:
        run_curricula(data, VARIANTS, [0, 1, 2], out)
    assert refused.type is InputError
    assert (started.titles, contents(out)) == ([], before)
    job = CurriculumJob("softmax", VARIANTS["softmax"].replace(seed=1), path.parent, data, image_facts(DRAWINGS))
    for read in (CurriculumJob.result, CurriculumJob.ended, read_result):
        with pytest.raises(InputError, match=r"softmax/seed-1/result\.json"):
            read(job)
    path.unlink()
    assert job.result() is job.ended() is None
    with pytest.raises(InputError, match=r"softmax/seed-1/result\.json: there is no such file"):
        read_result(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 29}, "it has run for 30 steps, more than the 29 that are wanted"),
        ({"T": 7}, "T was 10, now 7"),
        ({"threshold": 0.5, "max_steps": 90}, r"threshold was 0\.6, now 0\.5"),
    ],
)
def test_a_result_of_another_run_is_named(changes, message, data, out, started):
    before = contents(out)
    with pytest.raises(InputError, match=rf"hebbian/seed-0/result\.json is of another run: .*{message}"):
        run_curricula(data, {"hebbian": SHORT.replace(**changes)}, [5, 0], out)
    assert (started.titles, contents(out)) == ([], before)


def test_a_result_of_other_images_is_named(out, tmp_path, started):
    other = DRAWINGS.copy()
    other[3, 2, 1, 0] ^= 1
    with pytest.raises(InputError, match=r"hebbian/seed-0/result\.json is of another run: .*other images"):
        run_curricula(write_images(tmp_path / "other", other), VARIANTS, [0], out)
    assert started.titles == []


@pytest.mark.parametrize(
    ("seeds", "workers", "changes", "message"),
    [
        ([], 1, {}, r"seeds is \[\]; expected one or more"),
        ([1, 0, 1], 1, {}, r"seeds is \[1, 0, 1\]; expected one or more, each another"),
        ([0, -1], 1, {}, "seed is -1"),
        ([0], 0, {}, "workers is 0; expected 1 or more"),
        ([0], -2, {}, "workers is -2; expected 1 or more"),
        ([0], 1, {"start": 21}, "start is 21, but the images have 20 classes"),
        ([0], 1, {"max_classes": 21}, "max_classes is 21, but the images have 20 classes"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    seeds, workers, changes, message, data, tmp_path, started
):
    variants = {**VARIANTS, "last": SHORT.replace(**changes)}
    with pytest.raises(InputError, match=message):
        run_curricula(data, variants, seeds, tmp_path / "out", workers)
    assert not (tmp_path / "out").exists()
    assert started.titles == []


def test_images_too_small_for_the_network_and_no_drawings_at_all(tmp_path, started):
    small = write_images(tmp_path / "small", np.ascontiguousarray(DRAWINGS[:, :, :15, :15]))
    with pytest.raises(InputError, match="15 x 15; expected 16 x 16 or more"):
        run_curricula(small, VARIANTS, [0], tmp_path / "out")
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        run_curricula(tmp_path / "nowhere", VARIANTS, [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert started.titles == []


def test_one_at_a_time_is_at_work_in_a_folder(data, tmp_path, started):
    with hold(tmp_path):
        folder._held.clear()  # as if it were another process
        with pytest.raises(InputError, match=r"since .* is at work in this folder"):
            run_curricula(data, VARIANTS, [0], tmp_path)
    assert started.titles == []


def test_ended_in_the_midst_the_same_call_goes_on_to_the_undisturbed_results(data, tmp_path, started):
    saving = {name: settings.replace(save_seconds=1e-9, max_steps=60) for name, settings in VARIANTS.items()}
    folders = [tmp_path / variant / "seed-0" for variant in saving]
    end_when(lambda: any((folder / "checkpoint.pt").exists() for folder in folders))
    results, signal = run_curricula(data, saving, [0, 1], tmp_path, workers=2)
    assert signal == "SIGTERM"
    assert results == {"hebbian": {}, "softmax": {}}
    assert started.titles == ["hebbian seed-0", "softmax seed-0"]  # and no other after the signal
    assert started.most == 2
    assert 128 + SIGTERM in [task.returncode for task in started.tasks]  # one may have heard it before its first step
    assert is_free(tmp_path)
    assert not list(tmp_path.glob("*/*/result.json"))
    results, signal = run_curricula(data, saving, [0, 1], tmp_path, workers=2)
    assert signal == ""
    assert {variant: list(runs) for variant, runs in results.items()} == {"hebbian": [0, 1], "softmax": [0, 1]}
    for variant, runs in results.items():
        for seed, result in runs.items():
            assert lasting(result) == direct(variant, seed, 60)


def test_a_failing_run_stops_no_other(data, tmp_path, started, monkeypatch):
    broken = tmp_path / "hebbian/seed-0/checkpoint.pt"
    broken.parent.mkdir(parents=True)
    broken.write_text("no checkpoint")
    with pytest.raises(JobsFailedError, match=r"1 of the jobs failed.*hebbian seed 0: .*checkpoint\.pt") as failed:
        run_curricula(data, VARIANTS, [0], tmp_path, workers=1)
    assert failed.value.exit_code == 2  # bad input
    assert started.titles == ["hebbian seed-0", "softmax seed-0"]
    assert lasting(json.loads((tmp_path / "softmax/seed-0/result.json").read_text())) == direct("softmax", 0)
    with monkeypatch.context() as patch:  # a fault of ours in the one that is left
        patch.setattr("firstsight.lab.curriculum.loop.run_curriculum", lambda *_, **__: 1 / 0)
        with pytest.raises(JobsFailedError, match=r"hebbian seed 0: ZeroDivisionError.*log\.txt") as failed:
            run_curricula(data, VARIANTS, [0], tmp_path, workers=1)
    assert failed.value.exit_code == 1
    broken.unlink()
    results, _ = run_curricula(data, VARIANTS, [0], tmp_path, workers=1)
    assert lasting(results["hebbian"][0]) == direct("hebbian", 0)
    assert started.titles.count("softmax seed-0") == 1


@pytest.mark.parametrize(
    ("changes", "message"), [({}, "has done 40 steps, more than the 30 that are wanted"), ({"T": 7}, "T was 10, now 7")]
)
def test_a_checkpoint_of_another_run_is_named_before_anything_runs(changes, message, data, tmp_path, started):
    run_curricula(data, {"b": SHORT.replace(max_steps=40)}, [0], tmp_path)
    (tmp_path / "b/seed-0/result.json").unlink()  # as if it had been killed on the way to more
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"b/seed-0/checkpoint\.pt.*{message}"):
        run_curricula(data, {"softmax": VARIANTS["softmax"], "b": SHORT.replace(**changes)}, [0], tmp_path)
    assert (started.titles, contents(tmp_path)) == (["b seed-0"], before)
