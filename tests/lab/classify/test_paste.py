"""What is to be pasted runs, as it stands, on a small file of the user's."""

import csv
import inspect
import json

import numpy as np
import pytest
from trial_fakes import LEVELS, fake_trial

from firstsight.lab.classify.judgement.paste import NEW, paste

WORDS = ["red apple pie", "blue cheese plate", "green tea cup", "hot black coffee"]


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat([3, 7, 11, 20], 12)
    h = rng.normal(size=(4, 8))[np.repeat(np.arange(4), 12)] + 0.2 * rng.normal(size=(48, 8))
    np.savez(tmp_path / "it's mine.npz", h=h.astype(np.float16), y=y)
    return tmp_path / "it's mine.npz"


@pytest.fixture
def texts(tmp_path):
    rows = [(f"{word} number {i} today", f"class {at}") for i in range(12) for at, word in enumerate(WORDS)]
    with open(tmp_path / "notes.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("the text", "its label"), *rows])
    lines = [json.dumps({"the text": text, "its label": label}) for text, label in rows]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    (tmp_path / "notes.tsv").write_text("\n".join("\t".join(row) for row in [("the text", "its label"), *rows]))
    return tmp_path


def trial_of(method, arrival, verdict, file, *, body="none", rate=0.03, columns=(None, None)):
    """A trial where such a method is the one to take."""
    trial = fake_trial({key: LEVELS[key] for key in (("sight", "write"), ("softmax", "imprinting"))})
    side = "rival" if verdict == "rival" else "ours"
    trial["choice"][side] = {"method": method, "arrival": arrival, "rate": rate}
    trial["methods"] = [{"name": method, "title": method, "ours": side == "ours", "rates": {arrival: rate}}]
    trial["comparison"]["verdict"] = verdict
    trial["taken"] = side
    trial["source"] = {"file": str(file), "text": columns[0], "label": columns[1]}
    trial["data"] |= {"features": 6, "encoder": None if str(file).endswith(".npz") else "TF-IDF of letters"}
    trial["settings"] |= {"body": body, "epochs": 40, "batch": 16}
    return trial


def ran(text, tmp_path, monkeypatch, capsys):
    """The names that the pasted lines leave, and what they print."""
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(text, "pasted", "exec"), names)
    return names, capsys.readouterr().out


RIVALS = [
    ("means", "added", 0.0),
    ("knn", "added", 5),
    ("lda", "added", 0.1),
    ("logistic", "imprinting", 100),
    ("logistic", "replay", 100),
    *[
        (method, arrival, 0.03)
        for method in ("softmax", "softmax-weights", "softmax-balanced", "softmax-adjusted", "cosine")
        for arrival in ("imprinting", "replay")
    ],
]


@pytest.mark.parametrize(("method", "arrival", "rate"), RIVALS)
def test_a_rivals_lines_run_and_know_the_new_label(method, arrival, rate, vectors, tmp_path, monkeypatch, capsys):
    text = paste(trial_of(method, arrival, "rival", vectors, rate=rate))
    assert text.count("firstsight") == 1  # what reads the file
    text = text.replace("X_new = X[:2]", "X_new = 2 * np.roll(X[:2], 3, 1)")  # a class of its own
    names, out = ran(text, tmp_path, monkeypatch, capsys)
    assert out.count(NEW) == 2
    if "linear" in names:  # the old ones are known too
        said = names["F"].linear(names["embed"](names["H"]), names["W"], names["b"]).argmax(1).numpy()
        assert (said == names["rows"]).mean() > 0.8  # imprinting takes some


@pytest.mark.parametrize("method", ["softmax", "cosine"])
def test_with_a_layer_below(method, vectors, tmp_path, monkeypatch, capsys):
    text = paste(trial_of(method, "replay", "rival", vectors, body="mlp"))
    names, _ = ran(text, tmp_path, monkeypatch, capsys)
    assert names["W"].shape == (5, 256)


@pytest.mark.parametrize("method", ["sight", "paper", "sight-adjusted"])
@pytest.mark.parametrize("body", ["none", "mlp"])
def test_the_layers_lines_run(method, body, vectors, tmp_path, monkeypatch, capsys):
    text = paste(trial_of(method, "write", "ours", vectors, body=body))
    layer = text.partition("# As the last layer")[2]
    reading = text.partition("from firstsight.estimator")[0].partition("# As the last layer")[0]
    assert ('rule="paper"' in layer or "rule='paper'" in layer) is (method == "paper")
    assert ("logit_adjustment" in layer) is (method == "sight-adjusted")
    text = f"{reading}\n# {layer}".replace("X_new = X[:2]", "X_new = 2 * np.roll(X[:2], 3, 1)")
    names, out = ran(text, tmp_path, monkeypatch, capsys)
    assert names["head"].num_classes == 5
    _, classes = names["head"].topk(names["body"](names["H_new"]) if body == "mlp" else names["H_new"], 1)
    assert classes.flatten().tolist() == [4, 4]
    assert "tensor" in out


@pytest.mark.parametrize("verdict", ["ours", "none"])
def test_the_estimators_lines_run(verdict, vectors, tmp_path, monkeypatch, capsys):
    text = paste(trial_of("sight", "write", verdict, vectors))
    assert "FirstSightClassifier(" in text
    pytest.importorskip("firstsight.estimator")
    _, out = ran(text.replace("X_new = X[:2]", "X_new = 2 * np.roll(X[:2], 3, 1)"), tmp_path, monkeypatch, capsys)
    assert out.count(NEW) == 2


def test_the_estimator_takes_what_is_given():
    estimator = pytest.importorskip("firstsight.estimator")
    assert {"learning_rate", "epochs", "batch_size", "random_state"} <= set(
        inspect.signature(estimator.FirstSightClassifier).parameters
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_texts_of_every_kind_of_file(kind, texts, tmp_path, monkeypatch, capsys):
    file = texts / f"notes.{kind}"
    text = paste(trial_of("knn", "added", "rival", file, rate=1, columns=("the text", "its label")))
    names, out = ran(text, tmp_path, monkeypatch, capsys)
    assert out.count(NEW) == 2
    assert names["X"].shape == (50, 47)
    assert set(names["y"]) == {NEW, *(f"class {i}" for i in range(4))}


def test_an_encoder_and_the_docstrings_are_named():
    trial = trial_of("sight", "write", "ours", "notes.csv")
    trial["data"]["encoder"] = "all-MiniLM-L6-v2"
    assert "encode = SentenceTransformer('all-MiniLM-L6-v2').encode" in paste(trial)
    trial["source"]["file"] = None
    assert "from firstsight.lab.classify.data.docstrings import docstrings" in paste(trial)
