"""The sweep of the memories: its grids against plain loops, its choice, going on, and its part of the report."""

import copy
import json
import shutil

import numpy as np
import pytest
from memory_runs import FEW, activations, make_swept, plain_cache, plain_mbpa, plain_mixture, small_grids

from firstsight.errors import InputError
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.lm.run import open_run
from firstsight.lab.reading import grids
from firstsight.lab.reading import sweep as sweeps
from firstsight.lab.reading.recalled import recall_run
from firstsight.lab.reading.sweep import sweep_memory
from firstsight.lab.reading.tuned import best_of, choose_cache, choose_mbpa, choose_mixtures, edge_warnings, read_tuned


@pytest.fixture(scope="module")
def swept_run(corpus, tmp_path_factory):
    return make_swept(corpus, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_grids(monkeypatch)


@pytest.fixture
def run(swept_run, tmp_path):
    return shutil.copytree(swept_run[0], tmp_path / "run", ignore=shutil.ignore_patterns("memory"))


@pytest.fixture
def swept(swept_run, tmp_path):
    return shutil.copytree(swept_run[0], tmp_path / "run"), copy.deepcopy(swept_run[1])


def test_the_grids_are_those_of_plain_loops(swept, corpus):
    folder, found = swept
    assert found == json.loads((folder / "memory/sweep.json").read_text())
    tokens, trained = np.asarray(corpus.split("valid")), open_run(folder)
    hidden, model = activations(trained, tokens)
    for theta in (0.1, 0.8):
        for size in (40, 300):
            cache = np.concatenate([model[:1], plain_cache(hidden, tokens, size, theta, range(1, len(tokens)))])
            rows = [row for row in found["cache"]["grid"] if (row["theta"], row["size"]) == (theta, size)]
            assert [row["weight"] for row in rows] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
            for row in rows:
                want = plain_mixture(model, [(cache, row["weight"])]).mean()
                assert row["nll"] == pytest.approx(want, abs=2e-6)
                assert row["perplexity"] == pytest.approx(np.exp(want), rel=3e-6)
    assert found["cache"]["model"]["nll"] == pytest.approx(model.mean(), abs=2e-6)

    chosen, places = found["chosen"]["cache"], range(700, 850)
    head, memory = trained.model.head, {"size": chosen["size"], "beta": 0.5, "positions": places}
    cache = plain_cache(hidden, tokens, chosen["size"], chosen["theta"], places)
    assert found["mbpa"]["model"]["nll"] == pytest.approx(model[700:850].mean(), abs=2e-6)
    assert (found["mbpa"]["first"], found["mbpa"]["tokens"]) == (700, 150)
    for k in (5, 20):
        for lr in (0.1, 0.3, 2.0):
            mbpa = plain_mbpa(head, hidden, tokens, k=k, lr=lr, steps=1, **memory)
            rows = [row for row in found["mbpa"]["grid"] if (row["k"], row["lr"]) == (k, lr)]
            assert len(rows) == 6 * 8
            for row in rows[::7]:
                want = plain_mixture(model[700:850], [(cache, row["cache_weight"]), (mbpa, row["mbpa_weight"])])
                assert row["nll"] == pytest.approx(want.mean(), abs=1e-5)
    lr, first = found["chosen"]["mbpa"]["lr"], memory | {"positions": range(700, 712)}
    for row in found["mbpa"]["two_steps"]["grid"]:
        assert row["lr"] == lr
        for steps, name in ((1, "one"), (2, "two")):
            mbpa = plain_mbpa(head, hidden, tokens, k=row["k"], lr=lr, steps=steps, **first)
            parts = [(cache[:12], row[name]["cache_weight"]), (mbpa, row[name]["mbpa_weight"])]
            assert row[name]["mbpa_weight"] > 0
            assert row[name]["nll"] == pytest.approx(plain_mixture(model[700:712], parts).mean(), abs=1e-5)
    assert [row["k"] for row in found["mbpa"]["two_steps"]["grid"]] == [5, 20]


def test_what_is_chosen_is_best_and_reads_like_it(swept):
    folder, found = swept
    tuned = read_tuned(folder / "memory/sweep.json")
    chosen = tuned["chosen"]
    perplexity = min(one["perplexity"] for one in chosen["mixtures"])
    assert (tuned["sweep"], tuned["split"]) == ("memory", "valid")
    assert tuned["best"] == {"settings": chosen, "perplexity": perplexity}
    best = min(found["cache"]["grid"], key=lambda row: row["nll"])
    assert chosen["cache"] == {"size": best["size"], "theta": best["theta"]}
    best_mbpa = min((row for row in found["mbpa"]["grid"] if row["mbpa_weight"]), key=lambda row: row["nll"])
    assert chosen["mbpa"] == {
        "size": best["size"], "k": best_mbpa["k"], "lr": best_mbpa["lr"], "beta": 0.5, "steps": 1
    }  # fmt: skip
    result = recall_run(folder, "valid", "cache,mbpa", tuned=folder / "memory/sweep.json")
    rows = {row["name"]: row for row in result["memory"]["variants"]}
    weights = {frozenset(one["weights"]): one["weights"] for one in chosen["mixtures"]}
    assert rows["+ cache"]["cache_weight"] == weights[frozenset(["cache"])]["cache"]
    assert rows["+ cache + MbPA"]["mbpa_weight"] == weights[frozenset(["cache", "mbpa"])]["mbpa"]
    assert rows["model"]["nll"] == pytest.approx(found["cache"]["model"]["nll"], abs=1e-7)
    assert rows["model"]["nll"] == pytest.approx(evaluate_run(folder, "valid")["nll"], abs=1e-7)


def test_part_of_the_text_and_no_mbpa(run, corpus):
    folder = run
    found = sweep_memory(folder, split_tokens=400, memory="cache")
    _, model = activations(open_run(folder), np.asarray(corpus.split("valid")[:400]))
    assert found["tokens"] == 400
    assert found["cache"]["model"]["nll"] == pytest.approx(model.mean(), abs=2e-6)
    assert found["mbpa"] is None
    assert found["chosen"]["mbpa"] is None
    assert [set(one["weights"]) for one in found["chosen"]["mixtures"]] == [{"cache"}]
    assert {path.name for path in (folder / "memory").iterdir()} == {"sweep.json"}
    with pytest.raises(InputError, match="holds no settings of MbPA"):
        recall_run(folder, "valid", "mbpa", tuned=folder / "memory/sweep.json")


def test_what_is_left_of_a_short_text_is_used(run, corpus):
    folder = run
    last = len(corpus.split("valid")) - 30
    found = sweep_memory(folder, first=last, tokens=5000, two_step_tokens=0)
    assert (found["mbpa"]["first"], found["mbpa"]["tokens"]) == (last, 30)
    assert found["mbpa"]["two_steps"] is None
    found = sweep_memory(folder, tokens=1, two_step_tokens=0)
    assert found["mbpa"]["first"] == len(corpus.split("valid")) // 2
    found = sweep_memory(folder, first=0, tokens=1)
    model = found["mbpa"]["model"]["nll"]
    nll = [row["nll"] for row in found["mbpa"]["grid"]]
    assert nll == pytest.approx([model] * len(nll), abs=1e-6), "empty memories say what the model says"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": 1500}, "leaves none of them to measure the memories on. Lower --first"),
        ({"split_tokens": 300, "first": 300}, "the text has 300 tokens"),
        ({"split_tokens": 0}, "split-tokens is 0; expected 1 or more"),
        ({"tokens": 0}, "tokens is 0; expected 1 or more"),
        ({"first": -1}, "first is -1; expected 0 or more"),
        ({"two_step_tokens": -1}, "two-step-tokens is -1; expected 0 or more"),
        ({"checkpoint": "none"}, "there is no such checkpoint"),
    ],
)
def test_refused(options, said, run):
    with pytest.raises(InputError, match=said):
        sweep_memory(run, **FEW | options)
    assert not (run / "memory").exists()


def test_a_folder_where_the_result_goes_is_refused_before_the_work(run, monkeypatch):
    (run / "memory/sweep.json").mkdir(parents=True)
    monkeypatch.setattr(grids, "cache_grid", None)
    with pytest.raises(InputError, match=r"sweep\.json: this is a folder"):
        sweep_memory(run, **FEW)


def test_cut_off_it_goes_on_after_the_last_part(swept, monkeypatch, capsys):
    folder, undisturbed = swept
    real, done = grids.measure, []

    def measure(run, tokens, title, *rest):
        if title.endswith("two") and not done:
            raise KeyboardInterrupt
        return real(run, tokens, title, *rest)

    monkeypatch.setattr(grids, "measure", measure)
    (folder / "memory/sweep.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        sweep_memory(folder, **FEW)
    assert not (folder / "memory/sweep.json").exists()
    done.append(True)
    monkeypatch.setattr(grids, "cache_grid", None)
    monkeypatch.setattr(grids, "mbpa_grid", None)
    capsys.readouterr()
    found = sweep_memory(folder, **FEW)
    said = capsys.readouterr().err
    assert "cache was done before" in said
    assert "mbpa was done before" in said
    for part in (found, undisturbed):
        for inner in (part["cache"], part["mbpa"], part["mbpa"]["two_steps"], part["mixed"]):
            assert inner.pop("seconds") > 0
    assert found == undisturbed
    assert not (folder / "memory/sweep.partial.json").exists()


def test_parts_of_another_question_are_done_anew(swept, capsys):
    folder, undisturbed = swept
    partial = folder / "memory/sweep.partial.json"
    stages = sweeps._Stages(partial, {"checkpoint": "another", "text": "t"})
    stages.run("cache", {}, lambda: {"grid": [], "model": {}})
    found = sweep_memory(folder, **FEW)
    assert "cache is of another checkpoint, text or setting" in capsys.readouterr().err
    assert found["cache"]["grid"] == undisturbed["cache"]["grid"]
    partial.write_text("{")
    assert sweep_memory(folder, **FEW)["chosen"] == undisturbed["chosen"]
    assert "damaged" in capsys.readouterr().err


def cache_rows(best):
    """A grid whose NLL grows with the distance to a point, in steps of each axis."""
    axes = {"theta": (0.1, 0.2, 0.3), "size": (1000, 5000, 9000), "weight": (0.05, 0.1, 0.15)}
    rows = [dict(zip(axes, point, strict=True)) for point in np.array(np.meshgrid(*axes.values())).T.reshape(-1, 3)]
    return [
        row | {"nll": 5 + 0.1 * sum(abs(axes[n].index(row[n]) - axes[n].index(best[n])) for n in axes)} for row in rows
    ]


def test_warnings_at_the_edge():
    inside = {"theta": 0.2, "size": 5000, "weight": 0.1}
    chosen, warnings = choose_cache(cache_rows(inside))
    assert warnings == []
    assert chosen == {"size": 5000, "theta": 0.2}
    _, warnings = choose_cache(cache_rows(inside | {"theta": 0.3, "size": 1000}))
    assert len(warnings) == 2
    assert "the best theta, 0.3, is the largest of its grid: a larger one may be better" in warnings[0]
    assert "the best size, 1000, is the smallest of its grid" in warnings[1]
    level = [row | {"nll": 5 + abs(row["weight"] - 0.1)} for row in cache_rows(inside)]
    assert choose_cache(level)[1] == [], "theta and size change nothing"
    with pytest.raises(InputError, match="diverged"):
        choose_cache([row | {"nll": None} for row in cache_rows(inside)])


def test_a_weight_that_was_fitted_is_no_axis():
    rows = [
        {"k": k, "temperature": t, "best_weight": k / 5000 + t / 77, "nll": 5 + abs(k - 256) / 999 - t / 50}
        for k in (64, 256, 1024)
        for t in (1.0, 10.0)
    ]
    warnings = edge_warnings("kNN", rows, best_of(rows), ["k", "temperature"])
    assert warnings == ["kNN: the best temperature, 10, is the largest of its grid: a larger one may be better still"]


def test_mbpa_that_does_not_help():
    """Its k and rate are those that do the least harm."""
    rows = [
        {"k": k, "lr": lr, "cache_weight": c, "mbpa_weight": m, "nll": 5 + m / lr / k - c * (0.2 - c)}
        for k in (512, 1024, 2048)
        for lr in (0.1, 0.3, 1.0)
        for c in (0.0, 0.1, 0.2)
        for m in (0.0, 0.02, 0.1)
    ]
    chosen, warnings = choose_mbpa(rows, 5000)
    assert chosen == {"size": 5000, "k": 2048, "lr": 1.0, "beta": 0.5, "steps": 1}
    assert len(warnings) == 2
    assert "the best k, 2048, is the largest of its grid" in warnings[0]


def test_the_weights_of_every_mixture():
    """Exact for each choice of memories, and for each band of the word before that has words enough."""
    rng = np.random.default_rng(3)
    nll = {name: rng.gamma(2.0, 2.0, 3000) for name in ("model", "cache", "mbpa", "dynamic")}
    band_N = np.r_[np.full(1500, 4), np.full(1450, 1), np.full(50, 2)]
    nll["cache"][:1500] += 9  # of no use after frequent words
    nll["dynamic"] = nll["model"] + 1  # of no use anywhere
    found, warnings = choose_mixtures(nll, band_N)
    assert [set(one["weights"]) for one in found["mixtures"]] == [
        {"cache"}, {"mbpa"}, {"dynamic"}, {"cache", "mbpa"}, {"cache", "dynamic"}, {"mbpa", "dynamic"},
        {"cache", "mbpa", "dynamic"},
    ]  # fmt: skip
    for one in found["mixtures"]:
        parts = [(nll[name], weight) for name, weight in one["weights"].items()]
        assert one["nll"] == pytest.approx(plain_mixture(nll["model"], parts).mean(), abs=1e-9)
        assert one["residual"] < 1e-6
    assert warnings == ["dynamic helps by no weight: in a mixture of the model and it its weight is 0"]
    assert found["by_band"][4]["cache"] < 0.01 < found["by_band"][1]["cache"]
    assert found["by_band"][2] == found["by_band"][0] == found["mixtures"][-1]["weights"], "too few words of it"
