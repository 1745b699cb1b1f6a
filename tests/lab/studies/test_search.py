"""A search: what it is over, its queue, and what a worker does with it. That it outlives kills is tested in cli."""

import dataclasses
import itertools
import re
import statistics
from pathlib import Path

import pytest
from optuna.trial import TrialState
from searches import BASE, Kept, finished_once, write_search

from firstsight.errors import InputError
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.training import train
from firstsight.lab.studies.search import work as workers
from firstsight.lab.studies.search.points import trials_of
from firstsight.lab.studies.search.search import keep
from firstsight.lab.studies.search.space import load_search, paper_grid
from firstsight.lab.studies.search.storage import locked, shown, storage_url
from firstsight.lab.studies.search.summary import summarise

ROOT = Path(__file__).resolve().parents[3]


def test_the_papers_grid_is_that_of_its_appendix():
    sizes = {"paper": (1024, 2048, 4096), "cpu": (32, 64, 128)}
    for scale, hidden in sizes.items():
        search = paper_grid(scale, "softmax", None, 1)
        expected = itertools.product(hidden, (1, 2), (0, 0.1, 0.2, 0.3), (True, False), (True, False))
        points = [tuple(point.values()) for point in search.points()]
        assert points == list(expected)
        assert len(set(points)) == search.trials == 96
        assert list(search.points()[0]) == ["hidden", "layers", "dropout", "layer_norm", "tied"]
        assert not search.prune  # every point of a grid is wanted
    config = paper_grid("paper", "softmax", None, 1).config(search.points()[0] | {"hidden": 2048}, 3)
    assert (config.batch, config.length, config.clip, config.optimizer) == (512, 100, 0.1, "rmsprop")
    assert (config.head, config.hidden, config.seed) == ("softmax", 2048, 3)


def test_the_search_that_is_shipped():
    search = load_search(ROOT / "benchmarks/study/search.yaml")
    assert (search.sampler, search.trials, search.prune) == ("tpe", 20, True)
    assert list(search.space) == ["lr", "T", "gamma"]


def test_the_search_of_the_page_is_one(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sweep.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "page.yaml").write_text(text)
    search = load_search(tmp_path / "page.yaml")
    assert (search.data, search.sampler, list(search.space)) == ("data/stdlib", "tpe", ["lr", "T", "gamma", "rule"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": {"hiden": [8]}}, "unknown setting hiden"),
        ({"grid": {"hidden": 8}}, "hidden is 8; expected a list of values"),
        ({"grid": {"hidden": [8, 8]}}, "expected each value once"),
        ({"grid": {"hidden": []}}, "expected at least one value"),
        ({"grid": {"layers": [1, 3]}}, "layers=3: layers is 3; expected 1 or 2"),
        ({"grid": {"hidden": {"low": 8, "high": 9}}}, "expected a list of values"),
        ({"grid": {"seed": [1, 2]}}, "the seeds"),
        ({"grid": {}}, "grid names no setting"),
        ({"grid": {"hidden": [8]}, "trials": 3}, "trials belongs to a search"),
        ({"grid": {"hidden": [8]}, "search": {"lr": [0.1]}}, "expected either grid"),
        ({}, "expected either grid"),
        ({"search": {"lr": {"low": "1e-3", "high": 0.1}}}, "lr: low is '1e-3'; expected a number, like 0.001"),
        ({"search": {"lr": {"low": 0.1, "high": 0.1}}}, "expected low to be below high"),
        ({"search": {"lr": {"low": 0.0, "high": 0.1, "log": True}}}, "low above 0"),
        ({"search": {"T": {"low": 1.5, "high": 9}}}, "T: low is 1.5; expected a whole number"),
        ({"search": {"T": {"low": 0, "high": 9}}}, "T=0: T is 0; expected 1 or more"),
        ({"search": {"T": {"low": 1, "high": 9, "step": 0}}}, "step is 0"),
        ({"search": {"T": {"low": 1, "hi": 9}}}, "unknown hi"),
        ({"search": {"tied": {"low": 0, "high": 1}}}, "this setting is no number"),
        ({"search": {"lr": [0.1]}, "trials": 0}, "trials is 0"),
        ({"search": {"lr": [0.1]}, "sampler": "grid"}, "sampler is 'grid'; expected tpe or random"),
        ({"search": {"lr": [0.1]}, "seeds": [1, 1]}, "seeds is"),
        ({"search": {"lr": [0.1]}, "prune": "yes"}, "prune is 'yes'"),
        ({"search": {"lr": [0.1]}, "data": 3}, "data is 3"),
        ({"search": {"lr": [0.1]}, "epochs": 3}, "unknown epochs"),
        ({"grid": {"projection": [True, False], "hidden": [16]}}, "projection=False hidden=16"),
    ],
)
def test_a_bad_search_is_refused(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        load_search(write_search(tmp_path, **changes))


@pytest.mark.parametrize("url", ["mysql://me@host/x", "sqlite://", "nonsense", "postgres-host/me"])
def test_other_storages_are_refused(url, tmp_path):
    with pytest.raises(InputError, match="expected sqlite:///FILE, or postgresql://"):
        storage_url(url, tmp_path)


def test_passwords_are_not_shown(tmp_path):
    url = storage_url("postgresql://me:secret@127.0.0.1:1/x", tmp_path)
    assert shown(url) == "postgresql://me@127.0.0.1:1/x"
    with (
        pytest.raises(InputError, match=r"storage postgresql://me@127.0.0.1:1/x does not answer") as found,
        locked(url),
    ):
        pass
    assert "secret" not in str(found.value)


@pytest.fixture
def grid(corpus, tmp_path):
    return Kept(tmp_path, corpus, grid={"hidden": [8, 12], "dropout": [0.0, 0.2]}, seeds=[3, 0])


def test_every_point_is_put_in_the_queue_once(grid):
    assert grid.fill() == grid.fill() == {"waiting": 4}
    assert grid.states() == {TrialState.WAITING: 4}
    queued = [trial.system_attrs["fixed_params"] for trial in grid.study.get_trials()]
    assert queued == grid.search.points()


def test_a_worker_that_dies_before_it_says_who_it_is(grid):
    grid.fill()
    assert grid.study.ask().number == 0  # taken, and nothing else
    assert grid.fill() == {"waiting": 4}
    assert grid.states() == {TrialState.FAIL: 1, TrialState.WAITING: 4}
    assert [trial.number for trial in trials_of(grid.study)[0]] == [0, 4]


def test_another_search_of_that_name_is_refused(grid):
    for change, said in (
        ({"seeds": [3]}, r"seeds was \[3, 0\], now \[3\]"),
        ({"base": {**grid.search.base, "lr": 0.5}}, "base lr was 0.01, now 0.5"),
        ({"space": {"hidden": [8, 12]}}, "space was .*dropout.*, now .*"),
    ):
        with pytest.raises(InputError, match=f"the search mine was made otherwise: {said}"):
            grid.found(dataclasses.replace(grid.search, **change))
    with pytest.raises(InputError, match="vocabulary_hash was"):
        grid.found(grid.search, vocabulary_hash="other")
    with pytest.raises(InputError, match=r"my\.yaml: sqlite.* was made otherwise: seeds was"):
        grid.found(dataclasses.replace(grid.search, seeds=[3], source="my.yaml"))


def test_a_grid_is_ranked_by_the_mean_over_its_seeds(grid, corpus, tmp_path):
    assert grid.work() == 0
    assert finished_once(grid.study, 4)
    expected = {}
    for at, point in enumerate(itertools.product([8, 12], [0.0, 0.2])):
        settings = dict(zip(("hidden", "dropout"), point, strict=True))
        runs = [
            train(corpus, tmp_path / f"{at}-{seed}", recipe("small").replace(**{**BASE, **settings, "seed": seed}))
            for seed in (3, 0)
        ]
        expected[at] = sum(run.best_perplexity for run in runs) / 2
    found = keep(grid.study, grid.url, str(corpus.folder), grid.out)
    assert {point["point"]: point["perplexity"] for point in found["points"]} == pytest.approx(expected)
    ranking = [point["point"] for point in found["points"]]
    assert ranking == sorted(expected, key=expected.__getitem__)
    assert found["best"] == {"settings": grid.search.points()[ranking[0]], "perplexity": min(expected.values())}
    assert (found["sweep"], found["split"], found["left"]) == ("lm", "valid", 0)
    assert [len(point["validations"]) for point in found["points"]] == [8] * 4  # 4 of each of two runs
    assert not list(grid.out.rglob("last.pt"))
    assert len(list(grid.out.rglob("best.pt"))) == 8
    assert grid.work() == 0  # nothing is left, and nothing is done again
    assert grid.states() == {TrialState.COMPLETE: 4}


def test_more_trials_may_be_asked_for(corpus, tmp_path):
    kept = Kept(tmp_path, corpus, {"steps": 2}, search={"lr": {"low": 0.001, "high": 0.1, "log": True}}, trials=2)
    assert kept.work() == 0
    kept.found(dataclasses.replace(kept.search, trials=3))
    kept.found(dataclasses.replace(kept.search, trials=1))
    assert kept.work() == 0
    assert finished_once(kept.study, 3)


def test_tpe_searches_rate_T_and_gamma(corpus, tmp_path):
    shipped = load_search(ROOT / "benchmarks/study/search.yaml")
    kept = Kept(tmp_path, corpus, {"steps": 2, "head": "hebbian"}, search=shipped.space, trials=20, prune=False)
    assert kept.work() == 0
    assert finished_once(kept.study, 20)
    points = summarise(kept.study)["points"]
    for name, of in shipped.space.items():
        values = [point["settings"][name] for point in points]
        assert all(of["low"] <= value <= of["high"] for value in values)
        assert len(set(values)) > 10
    assert all(type(point["settings"]["T"]) is int for point in points)


def test_what_is_worse_than_the_median_is_ended(corpus, tmp_path):
    rates = [0.01, 0.011, 0.012, 0.013, 0.014, 1e-9]
    kept = Kept(tmp_path, corpus, grid={"lr": rates}, prune=True)
    assert kept.work() == 0
    *others, pruned = sorted(summarise(kept.study)["points"], key=lambda point: point["point"])
    assert [point["state"] for point in others] == ["done"] * 5
    assert (pruned["state"], pruned["perplexity"]) == ("pruned", None)
    *before, (step, value) = pruned["validations"]
    medians = {at: statistics.median(dict(map(tuple, one["validations"]))[at] for one in others) for at in (5, 10, 15)}
    assert value > medians[step]
    assert all(earlier <= medians[at] for at, earlier in before)
    assert step < 20
    assert not (kept.out / "runs/0005/0/checkpoints").exists()
    assert (kept.out / "runs/0004/0/checkpoints").exists()


def test_what_diverges_is_named_and_not_tried_again(corpus, tmp_path):
    kept = Kept(tmp_path, corpus, {"optimizer": "sgd", "clip": 0.0}, grid={"lr": [0.01, 1e30]})
    assert kept.work() == 0
    first, last = summarise(kept.study)["points"]
    assert (first["state"], last["state"], last["attempts"]) == ("done", "diverged", 1)
    assert "a lower --lr" in last["message"]


def test_failures_are_named_and_tried_once_again(corpus, tmp_path, monkeypatch):
    kept, calls, usual = Kept(tmp_path, corpus, {"steps": 2}, grid={"hidden": [8, 9, 10]}), [], workers.train

    def spoilt(corpus, folder, config, **options):
        calls.append(config.hidden)
        if config.hidden == 9 or (config.hidden == 10 and calls.count(10) == 1):
            raise RuntimeError("no more memory")
        return usual(corpus, folder, config, **options)

    monkeypatch.setattr(workers, "train", spoilt)
    assert kept.work() == 0
    assert sorted(calls) == [8, 9, 9, 10, 10]
    points = {point["settings"]["hidden"]: point for point in summarise(kept.study)["points"]}
    states = {hidden: (point["state"], point["attempts"]) for hidden, point in points.items()}
    assert states == {8: ("done", 1), 9: ("failed", 2), 10: ("done", 2)}
    assert points[9]["message"] == "RuntimeError: no more memory"

    monkeypatch.setattr(workers, "train", usual)
    assert kept.fill() == {"done": 2, "failed": 1}
    assert kept.fill(again=True) == {"done": 2, "waiting": 1}
    assert kept.work() == 0
    assert finished_once(kept.study, 3)


def test_a_trial_taken_up_keeps_the_runs_that_were_done(grid, monkeypatch):
    calls, usual = [], workers.train

    def spoilt(corpus, folder, config, **options):
        calls.append((folder.parent.name, config.seed))
        if calls.count(("0000", 0)) == 1 and calls[-1] == ("0000", 0):
            raise RuntimeError("once")
        return usual(corpus, folder, config, **options)

    monkeypatch.setattr(workers, "train", spoilt)
    assert grid.work() == 0
    assert [call for call in calls if call[0] == "0000"] == [("0000", 3), ("0000", 0), ("0000", 0)]
    assert finished_once(grid.study, 4)


def test_a_worker_taken_for_dead_goes_on_with_the_next(grid, monkeypatch):
    """Its trial is another's by then: what it found is dropped, and the point is done once."""
    usual, stolen = workers.train, []

    def slow(corpus, folder, config, *, watch, **options):
        if not stolen:
            running = [t for t in grid.study.get_trials() if t.state == TrialState.RUNNING]
            stolen.extend(running)
            grid.study.tell(running[0].number, state=TrialState.FAIL)
        return usual(corpus, folder, config, watch=watch, **options)

    monkeypatch.setattr(workers, "train", slow)
    assert grid.work() == 0
    assert finished_once(grid.study, 4)
    assert grid.states() == {TrialState.COMPLETE: 4, TrialState.FAIL: 1}
