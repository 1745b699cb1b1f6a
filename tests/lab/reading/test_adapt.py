"""Runs that write what they read: the numbers and the command, on a small trained one."""

import json

import numpy as np
import pytest
from training_runs import TINY, weights

from firstsight.errors import InputError
from firstsight.lab.cli.adapt import adapt
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import train
from firstsight.lab.reading.adapt import adapt_run, open_text, tune
from firstsight.lab.reading.writing import Writing

GRID = [
    Writing(rule=rule, gamma=gamma, max_count=50, block=5) for rule in ("scaled", "centered") for gamma in (0.0, 0.2)
]


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(corpus, folder, TINY.replace(head="softmax", steps=30, eval_every=30))
    return folder


def test_a_split(run, corpus):
    before = weights(run)
    found = adapt_run(run, "valid", Writing(rule="centered", gamma=0.2, max_count=60, block=3))
    json.dumps(found, allow_nan=False)
    trained, tokens = open_run(run), corpus.split("valid")
    want = evaluate(trained.model, tokens, corpus.vocabulary.counts, eos_id=1)
    assert found["model"]["nll"] == pytest.approx(want.nll, rel=1e-9)
    assert found["adapted"]["nll"] != pytest.approx(want.nll, rel=1e-4)
    assert found["tokens"] == len(tokens)
    rare = corpus.vocabulary.counts[tokens] < 100
    assert sum(row["tokens"] for row in found["sights"]) == rare.sum() > 0
    once = sum(row["tokens"] for row in found["sights"] if row["seen"] == 0)
    assert once == len(np.unique(tokens[rare]))
    for name, value in weights(run).items():
        assert value.equal(before[name])


def test_the_grid_finds_what_reads_best(run, corpus, monkeypatch):
    tokens = np.asarray(corpus.split("valid")[:300])
    trained = open_run(run)
    monkeypatch.setattr("firstsight.lab.reading.adapt.GRID", GRID)
    found = adapt_run(run, "test", None, tune_tokens=300)
    tuned = found["tuned"]
    assert tuned["tokens"] == 300
    assert [row["gamma"] for row in tuned["table"]] == [0.0, 0.2, 0.0, 0.2]
    want = evaluate(trained.model, tokens, corpus.vocabulary.counts, eos_id=1).nll
    assert tuned["model"]["nll"] == pytest.approx(want, rel=1e-9)
    assert tuned["table"][0]["nll"] == pytest.approx(want, rel=1e-6), "at a rate of 0 nothing is written"
    best = min(tuned["table"], key=lambda row: row["nll"])
    assert all(best[name] == value for name, value in tuned["best"].items())
    alone = adapt_run(run, "valid", Writing(**tuned["best"]))
    assert found["writing"] == alone["writing"]
    assert found["adapted"] == alone["adapted"], "the two splits of this corpus are the same text"
    with pytest.raises(InputError, match=r"blocks \[2, 5\]"):
        tune(
            trained.model,
            tokens,
            counts=corpus.vocabulary.counts,
            eos_id=1,
            moments=None,
            grid=[*GRID, Writing(block=2)],
        )


def test_a_text_with_new_words(run, tmp_path, capsys):
    text = tmp_path / "new.txt"
    text.write_text("w1 zebra w2 zebra\nw3 zebra okapi zebra w1 zebra\nokapi w2\n", encoding="utf-8")
    found = open_text(run, text, Writing(rule="centered", gamma=0.2, max_count=None))
    assert found["tokens"] == 15
    assert found["new"] == {"types": 2, "tokens": 7, "sights": {"1": 2, "2": 2, "3": 1, "4": 1, "5+": 1}}
    nll = {row["name"]: row for row in found["variants"]}
    assert list(nll) == [
        "closed",
        "closed_by_count",
        "closed_written",
        "unwritten",
        "written",
        "all_written",
        "sighted",
    ]
    assert nll["closed"]["known"] < nll["unwritten"]["known"], "new classes take mass from the others"
    assert len({nll[name]["new"]["5+"] for name in nll}) == 7
    assert adapt(run, text=text, open=True, rule="centered", gamma=0.2, max_count=None, json=True) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == found["variants"]
    assert adapt(run, text=text, open=True, json=True) == 0
    nll = {row["name"]: row["all"] for row in json.loads(capsys.readouterr().out)["variants"]}
    assert adapt(run, text=text, open=True) == 0
    printed = capsys.readouterr().out
    assert "2 new words, 7 of 15 tokens" in printed
    change = min(nll[name] for name in ("written", "all_written", "sighted")) - min(
        nll[name] for name in nll if name.startswith("closed")
    )
    assert f"{'gained' if change < 0 else 'lost'} {abs(change):.3f} nats a token" in printed
    assert f"perplexity {100 * (np.exp(change) - 1):+.1f}%" in printed
    assert adapt(run, text=text, json=True) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 15


def test_the_command(run, capsys):
    assert adapt(run, rule="scaled", gamma=0.3, block=50, json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["writing"]["rule"] == "scaled"
    assert adapt(run, block=50) == 0
    assert "sights before" in capsys.readouterr().out
    with pytest.raises(InputError, match="--open needs --text"):
        adapt(run, open=True)
    with pytest.raises(InputError, match="expected one of"):
        adapt(run, rule="nonsense")
    with pytest.raises(InputError, match="no such file"):
        adapt(run, text=run / "missing.txt", open=True)
    with pytest.raises(InputError, match="no such folder"):
        adapt(run, data=run / "missing")


def test_documents_are_forgotten_where_they_are_known(run, corpus, monkeypatch):
    class Documents:
        starts = np.array([0, 200, 500, len(corpus.split("valid"))])

    monkeypatch.setattr("firstsight.lab.data.Corpus.documents", lambda self, split: Documents)
    writing = Writing(rule="scaled", gamma=0.3, max_count=None, block=9)
    forgetting, one = (adapt_run(run, "valid", writing, forget=forget) for forget in (True, False))
    assert (forgetting["writing"]["documents"], one["writing"]["documents"]) == (3, 0)
    assert forgetting["adapted"]["nll"] != pytest.approx(one["adapted"]["nll"], rel=1e-6)
    first = [next(row["tokens"] for row in found["sights"] if row["seen"] == 0) for found in (forgetting, one)]
    assert first[0] > first[1], "a word is new again in each document"
