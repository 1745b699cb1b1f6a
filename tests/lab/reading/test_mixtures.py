"""Mixtures of more than the cache and MbPA: dynamic evaluation, and weights by the word before."""

import numpy as np
import pytest
from memory_runs import CACHE, MBPA, activations, plain_cache, plain_mbpa, plain_mixture, variants, write_tuned

from firstsight.errors import InputError
from firstsight.lab.lm.reader import read
from firstsight.lab.lm.run import open_run
from firstsight.lab.reading import recalled
from firstsight.lab.reading.dynamic import Dynamic, Learning, gradient_rms
from firstsight.lab.reading.recalled import recall_run


def test_dynamic_evaluation_among_them(run, tmp_path, corpus):
    """Its NLL is that of its own reading, and its mixture with the cache the weighted sum."""
    learning = {"rule": "rms", "lr": 0.01, "decay": 0.001, "scope": "model", "length": 5}
    weights = [{"weights": w} for w in ({"cache": 0.3}, {"dynamic": 0.6}, {"cache": 0.2, "dynamic": 0.5})]
    path = write_tuned(run, tmp_path / "t.json", mbpa=None, dynamic=learning, mixtures=weights)
    result = recall_run(run, "valid", "dynamic,cache", tuned=path)
    assert [row["name"] for row in result["memory"]["variants"]] == [
        "model", "+ cache", "+ dynamic", "+ cache + dynamic",
    ]  # fmt: skip
    tokens, trained = np.asarray(corpus.split("valid")), open_run(run)
    hidden, model = activations(trained, tokens)
    cache = np.concatenate([model[:1], plain_cache(hidden, tokens, **CACHE, positions=range(1, len(tokens)))])
    train_text = np.asarray(trained.corpus.split("train"))
    rms = gradient_rms(trained.model, train_text, eos_id=trained.vocabulary.eos_id, length=5)
    dynamic = read(trained.text(tokens), {"dynamic": Dynamic(trained.model, Learning(**learning), rms)})["dynamic"]
    found = variants(result)
    assert found["+ dynamic"]["nll"] == pytest.approx(plain_mixture(model, [(dynamic, 0.6)]).mean(), abs=2e-6)
    both = plain_mixture(model, [(cache, 0.2), (dynamic, 0.5)]).mean()
    assert found["+ cache + dynamic"]["nll"] == pytest.approx(both, abs=2e-6)
    assert found["+ dynamic"]["nll"] < model.mean(), "it learns something"
    assert result["memory"]["dynamic"] == {**learning, "weight": 0.5}


def test_what_diverges_is_named(run, tmp_path):
    learning = {"rule": "sgd", "lr": 1e30, "decay": 0.0, "scope": "model", "length": 5}
    path = write_tuned(run, tmp_path / "t.json", cache=None, mbpa=None, dynamic=learning, mixtures=[
        {"weights": {"dynamic": 0.5}}
    ])  # fmt: skip
    with pytest.raises(InputError, match=r"dynamic gives .* tokens no number, .*Choose a lower rate"):
        recall_run(run, "valid", "dynamic", tuned=path)


def test_weights_by_the_band_of_the_word_before(run, tmp_path, corpus):
    by_band = [{"cache": c, "mbpa": m} for c, m in ((0.1, 0.0), (0.6, 0.1), (0.3, 0.2), (0.0, 0.0), (0.05, 0.9))]
    path = write_tuned(run, tmp_path / "t.json", by_band=by_band)
    found = recall_run(run, "valid", "cache,mbpa", tuned=path, by_band=True)
    assert "+ cache + MbPA, by band" not in variants(recall_run(run, "valid", "cache,mbpa", tuned=path))
    tokens, trained = np.asarray(corpus.split("valid")), open_run(run)
    hidden, model = activations(trained, tokens)
    everywhere = range(1, len(tokens))
    cache = np.concatenate([model[:1], plain_cache(hidden, tokens, **CACHE, positions=everywhere)])
    mbpa = np.concatenate([model[:1], plain_mbpa(trained.model.head, hidden, tokens, **MBPA, positions=everywhere)])
    counts, total = trained.vocabulary.counts, 0.0
    for t in range(len(tokens)):
        before = counts[tokens[t - 1] if t else trained.vocabulary.eos_id]
        band = sum(before >= edge for edge in (1, 100, 1000, 10_001))
        parts = [(np.array(cache[t]), by_band[band]["cache"]), (np.array(mbpa[t]), by_band[band]["mbpa"])]
        total += float(plain_mixture(np.array(model[t]), parts))
    row = variants(found)["+ cache + MbPA, by band"]
    assert row["nll"] == pytest.approx(total / len(tokens), abs=2e-5)
    assert row["by_band"] == by_band
    assert found["nll"] == row["nll"]
    for given, said in ((None, "give it with --tuned"), (path, "of cache,mbpa together, and cache was asked for")):
        with pytest.raises(InputError, match=said):
            recall_run(run, "valid", "cache", tuned=given, by_band=True)


def test_what_learns_and_what_grows_go_on_where_they_were(run, tmp_path, monkeypatch):
    """Cut off in the midst of a text, they take in again what they had read before."""
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 64)
    monkeypatch.setattr(recalled, "CHUNK", 128)
    monkeypatch.setattr(recalled, "SAVE_EVERY", -1.0)
    learning = {"rule": "sgd", "lr": 0.1, "decay": 0.01, "scope": "model", "length": 7}
    near = {"k": 8, "temperature": 2.0}
    weights = [{"weights": dict.fromkeys(some, 0.3)} for some in (["unbounded"], ["dynamic"], ["unbounded", "dynamic"])]
    chosen = {"cache": None, "mbpa": None, "unbounded": near, "dynamic": learning, "mixtures": weights}
    path = write_tuned(run, tmp_path / "t.json", **chosen)
    undisturbed = variants(recall_run(run, "valid", "unbounded,dynamic", tuned=path))
    whole, calls = Dynamic.read, []

    def stop(self, segment):
        calls.append(segment)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(self, segment)

    with monkeypatch.context() as patch:
        patch.setattr(Dynamic, "read", stop)
        with pytest.raises(KeyboardInterrupt):
            recall_run(run, "valid", "unbounded,dynamic", tuned=path)
    assert (run / "memory/partial-valid.npz").exists()
    for name, row in variants(recall_run(run, "valid", "unbounded,dynamic", tuned=path)).items():
        assert row["nll"] == pytest.approx(undisturbed[name]["nll"], abs=1e-6), name
