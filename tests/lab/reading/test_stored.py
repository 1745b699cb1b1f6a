"""A store of a run: what it holds, going on after a kill, and evaluations that look things up in it."""

import json
import shutil

import numpy as np
import pytest
import torch
from memory_runs import FEW, activations, plain_mixture, small_grids, train_small, variants, write_tuned
from training_runs import TINY

from firstsight.errors import InputError
from firstsight.lab.data.documents import Documents
from firstsight.lab.lm.reader import Text, reading
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import train
from firstsight.lab.reading import recalled, stored
from firstsight.lab.reading.recalled import recall_run
from firstsight.lab.reading.stored import compact_store, delete_from, join_stores, store_info, store_run
from firstsight.lab.reading.sweep import sweep_memory
from firstsight.memory import Datastore, fit_weights

NEAR = {"k": 8, "temperature": 2.0}


@pytest.fixture(scope="module")
def trained_run(corpus, tmp_path_factory):
    folder = train_small(corpus, tmp_path_factory.mktemp("runs") / "run")
    store_run(folder)
    return folder


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 64)
    monkeypatch.setattr(recalled, "CHUNK", 128)


def plain_nearest(query_ND, target_N, keys_MD, label_M, k, temperature, seen=None):
    """-log p of each target from the k nearest of the keys, of those before a place where ``seen`` says one."""
    found = []
    for t, (h, y) in enumerate(zip(query_ND, target_N, strict=True)):
        stop = len(keys_MD) if seen is None else seen[t]
        squared = ((keys_MD[:stop] - h) ** 2).sum(1)
        near = stop - 1 - np.argsort(squared[::-1], kind="stable")[:k]  # of equals the later ones
        weight = np.exp(-(squared[near] - (squared[near].min() if len(near) else 0)) / temperature)
        right = weight[label_M[near] == y].sum()
        found.append(-np.log(right / weight.sum()) if right else np.inf)
    return np.array(found)


def test_it_holds_the_training_text(run, corpus):
    store, trained = Datastore.open(run / "memory/store"), open_run(run)
    tokens = np.asarray(corpus.split("train"))
    hidden, _ = activations(trained, tokens)
    assert np.array_equal(store.labels, tokens)
    np.testing.assert_allclose(store.keys.at(torch.arange(len(tokens))).numpy(), hidden, rtol=2e-3, atol=2e-3)
    assert store.about["checkpoint"] == trained.weights()["sha256"]
    found = store_info(run / "memory/store")
    assert (found["entries"], found["deleted"], found["index"]) == (len(tokens), 0, None)


def test_cut_off_it_goes_on_to_the_same_bytes(run, monkeypatch, small):
    shutil.rmtree(run / "memory/store")
    monkeypatch.setattr("firstsight.memory.datastore.writer._BLOCK_BYTES", 2048)
    store_run(run)
    small_blocks = {path.name: path.read_bytes() for path in (run / "memory/store").iterdir()}
    shutil.rmtree(run / "memory/store")
    bar = stored.Bar.update

    def stop(self, done):
        if done > 700:
            raise KeyboardInterrupt
        bar(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(stored.Bar, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            store_run(run)
    with pytest.raises(InputError, match="was not built to its end"):
        recall_run(run, "valid", "knn")
    store_run(run)
    resumed = {path.name: path.read_bytes() for path in (run / "memory/store").iterdir()}
    assert set(resumed) == set(small_blocks)
    assert [name for name, content in resumed.items() if content != small_blocks[name]] == []


def test_knn_is_that_of_a_plain_loop(run, tmp_path, corpus, small, monkeypatch):
    monkeypatch.setattr(
        "firstsight.lab.reading.memories.text_hash", lambda _: "another"
    )  # here all splits are one text
    path = write_tuned(run, tmp_path / "t.json", mbpa=None, cache=None, knn=NEAR, mixtures=[{"weights": {"knn": 0.4}}])
    result = recall_run(run, "test", "knn", tuned=path)
    tokens, trained, store = np.asarray(corpus.split("test")), open_run(run), Datastore.open(run / "memory/store")
    hidden, model = activations(trained, tokens)
    keys = store.keys.at(torch.arange(store.count)).double().numpy()
    knn = plain_nearest(hidden, tokens, keys, np.asarray(store.labels), **NEAR)
    assert variants(result)["+ kNN"]["nll"] == pytest.approx(plain_mixture(model, [(knn, 0.4)]).mean(), abs=1e-4)
    assert result["memory"]["knn"] == {**NEAR, "weight": 0.4}
    assert result["store"] == store_info(run / "memory/store")
    exact = variants(result)["+ kNN"]["nll"]
    index = store_run(run, index="ivf")["index"]
    assert index["kind"] == "ivf"
    assert index["recall"] > 0.5
    approximate = recall_run(run, "test", "knn", tuned=path)
    assert approximate["store"]["index"] == index
    assert variants(approximate)["+ kNN"]["nll"] == pytest.approx(exact, abs=0.05)


def test_the_text_that_was_stored_does_not_find_itself(run, tmp_path, corpus, small):
    store_run(run, "valid", out=tmp_path / "own")
    path = write_tuned(run, tmp_path / "t.json", mbpa=None, cache=None, knn=NEAR, mixtures=[{"weights": {"knn": 0.4}}])
    found = variants(recall_run(run, "valid", "knn", tuned=path, store=tmp_path / "own"))["+ kNN"]["nll"]
    tokens, trained, store = np.asarray(corpus.split("valid")), open_run(run), Datastore.open(tmp_path / "own")
    hidden, model = activations(trained, tokens)
    keys, labels = store.keys.at(torch.arange(store.count)).double().numpy(), np.asarray(store.labels)
    knn = np.array(
        [
            plain_nearest(hidden[t : t + 1], tokens[t : t + 1], np.delete(keys, t, 0), np.delete(labels, t), **NEAR)[0]
            for t in range(len(tokens))
        ]
    )
    assert found == pytest.approx(plain_mixture(model, [(knn, 0.4)]).mean(), abs=1e-4)


@pytest.mark.parametrize("by_document", [False, True])
def test_the_unbounded_cache_is_that_of_a_plain_loop(run, tmp_path, corpus, small, monkeypatch, by_document):
    chosen = {"cache": None, "mbpa": None, "unbounded": NEAR, "mixtures": [{"weights": {"unbounded": 0.3}}]}
    path = write_tuned(run, tmp_path / "t.json", **chosen)
    tokens, trained = np.asarray(corpus.split("valid")), open_run(run)
    starts = np.array([0, 300, 301, 900, len(tokens)])
    documents = Documents([f"d{i}" for i in range(4)], starts)
    if by_document:
        with pytest.raises(InputError, match="does not know where the documents of its valid split begin"):
            recall_run(run, "valid", "unbounded", tuned=path, by_document=True)
        monkeypatch.setattr("firstsight.lab.data.corpus.Corpus.documents", lambda self, name: documents)
    result = recall_run(run, "valid", "unbounded", tuned=path, by_document=by_document)
    hidden, model = activations(trained, tokens)
    half = hidden.astype(np.float16).astype(np.float64)
    begin = (
        starts[np.searchsorted(starts, np.arange(len(tokens)), "right") - 1] if by_document else np.zeros(len(tokens))
    )
    knn = []
    for t, first in enumerate(begin.astype(int)):
        seen = slice(first, t)
        alone = plain_nearest(hidden[t : t + 1], tokens[t : t + 1], half[seen], tokens[seen], **NEAR)[0]
        knn.append(model[t] if t == first else alone)
    expected = plain_mixture(model, [(np.array(knn), 0.3)]).mean()
    assert variants(result)["+ unbounded cache"]["nll"] == pytest.approx(expected, abs=1e-4)


def test_all_five_are_swept_and_mixed(run, monkeypatch):
    small_grids(monkeypatch)
    for name, value in {"NEAREST": (4, 16), "TEMPERATURES": (1.0, 5.0)}.items():
        monkeypatch.setattr(f"firstsight.lab.reading.grids.{name}", value)
    monkeypatch.setattr(
        "firstsight.lab.reading.grids.DYNAMIC", {"rms": ((0.001, 0.01), (0.0,)), "sgd": ((0.1,), (0.0,))}
    )
    names = ["cache", "mbpa", "unbounded", "knn", "dynamic"]
    found = sweep_memory(run, memory=",".join(names), **FEW)
    assert all(found["chosen"][name] for name in names)
    assert len(found["chosen"]["mixtures"]) == 31
    for name in ("unbounded", "knn"):
        for row in found[name]["grid"]:
            assert row["nll"] <= found[name]["model"]["nll"] + 1e-9, "its best weight may be 0"
    whole = found["chosen"]["mixtures"][-1]
    assert whole["residual"] < 1e-6
    assert whole["nll"] == min(one["nll"] for one in found["chosen"]["mixtures"])
    result = recall_run(run, "test", "cache,mbpa,unbounded,knn,dynamic", tuned=run / "memory/sweep.json")
    assert [row["name"] for row in result["memory"]["variants"]] == [
        "model", "+ cache", "+ MbPA", "+ unbounded cache", "+ kNN", "+ dynamic", "+ cache + MbPA", "+ all 5",
    ]  # fmt: skip
    assert json.loads((run / "result.json").read_text()) == result


def test_a_store_of_another_model_is_refused(run, tmp_path, corpus):
    other = tmp_path / "other"
    train(corpus, other, TINY.replace(head="softmax", steps=20, eval_every=20, seed=5))
    with pytest.raises(InputError, match=r"there is no store.*firstsight store build"):
        recall_run(other, "valid", "knn")
    with pytest.raises(InputError, match="this store is of another model or vocabulary: checkpoint"):
        recall_run(other, "valid", "knn", store=run / "memory/store")
    store_run(other)
    with pytest.raises(InputError, match="are of several models: checkpoint differ"):
        join_stores([run / "memory/store", other / "memory/store"], tmp_path / "both")


def test_what_is_deleted_is_found_no_more(run, tmp_path, corpus):
    store = run / "memory/store"
    tokens = np.asarray(corpus.split("train"))
    words = np.bincount(tokens)
    word = int(words.argmax())
    name = open_run(run).vocabulary.tokens[word]
    assert delete_from(store, word=name, run=run)["now"] == words[word]
    assert delete_from(store, entry=int(np.flatnonzero(tokens != word)[0]))["now"] == 1
    for folder in (store, tmp_path / "clean"):
        if folder != store:
            assert compact_store(store, folder)["deleted"] == 0
        opened = Datastore.open(folder)
        assert len(opened) == len(tokens) - words[word] - 1
        _, index = opened.search(torch.randn(20, opened.dim), 50)
        assert word not in np.asarray(opened.labels)[index.numpy().ravel()]
    joined = join_stores([store, tmp_path / "clean"], tmp_path / "both")
    assert joined["entries"] == 2 * (len(tokens) - words[word] - 1)
    assert variants(recall_run(run, "valid", "knn", store=tmp_path / "both"))["+ kNN"]["nll"] > 0
    for given, said in (
        ({"word": name}, "name the run with --run"),
        ({"word": "no such word", "run": run}, "is no word of the vocabulary"),
        ({"document": 7}, "document is 7"),
        ({"entry": 10**9}, "entries run from"),
    ):
        with pytest.raises(InputError, match=said):
            delete_from(store, **given)


def test_documents_are_those_of_the_corpus(run, tmp_path, corpus, monkeypatch):
    total = len(corpus.split("train"))
    documents = Documents(["a", "b", "c"], np.array([0, 100, 900, total]))
    monkeypatch.setattr("firstsight.lab.data.corpus.Corpus.documents", lambda self, name: documents)
    assert store_run(run, out=tmp_path / "store")["documents"] == 3
    assert delete_from(tmp_path / "store", document=1)["now"] == 800
    deleted = Datastore.open(tmp_path / "store").deleted()
    assert np.array_equal(np.flatnonzero(deleted), np.arange(100, 900))


def test_a_text_that_ends_its_segments_at_documents(run, corpus):
    trained, tokens = open_run(run), np.asarray(corpus.split("valid"))[:200]
    with reading(trained.model):
        parts = list(Text(trained.model, tokens, trained.vocabulary.eos_id, size=16, chunk=64, starts=[0, 70, 71, 150]))
    assert [(part.first, part.stop, part.fresh) for part in parts] == [
        (0, 64, False), (64, 70, False), (70, 71, True), (71, 135, True), (135, 150, False), (150, 200, True),
    ]  # fmt: skip
    assert torch.cat([part.input for part in parts], 1)[0, 1:].tolist() == tokens[:-1].tolist()


def test_the_best_weight_of_one_is_in_its_grid():
    """What the grid of one memory calls its best weight is that of the mixture."""
    nll = torch.tensor([[1.0, 2.0, 0.5], [0.5, 3.0, float("inf")]], dtype=torch.float64)
    found = fit_weights(nll)
    weights = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    best = -torch.log((1 - weights)[:, None] * torch.exp(-nll[0]) + weights[:, None] * torch.exp(-nll[1])).mean(1)
    assert float(found.weights[1]) == pytest.approx(float(weights[best.argmin()]), abs=1e-4) or found.nll <= best.min()
