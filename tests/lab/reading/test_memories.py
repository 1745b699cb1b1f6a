"""A trained run evaluated with memories: the numbers, the file of settings, and going on after an end."""

import json
import shutil

import numpy as np
import pytest
import torch
from memory_runs import (
    CACHE,
    MBPA,
    MIXTURES,
    activations,
    plain_cache,
    plain_mbpa,
    plain_mixture,
    variants,
    write_tuned,
)

from firstsight.errors import InputError
from firstsight.lab.lm.evaluation import by_band
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.lm.run import open_run
from firstsight.lab.reading import recalled as memory_results
from firstsight.lab.reading.memories import Recalling
from firstsight.lab.reading.recalled import recall_run
from firstsight.lab.runs.checkpoint import load_checkpoint, save_checkpoint
from firstsight.lab.system.folder import hold


@pytest.fixture
def tuned(run, tmp_path):
    return write_tuned(run, tmp_path / "tuned.json")


@pytest.fixture
def small_chunks(monkeypatch):
    """Twelve chunks of the text, each saved."""
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 64)
    monkeypatch.setattr(memory_results, "CHUNK", 128)
    monkeypatch.setattr(memory_results, "SAVE_EVERY", -1.0)


def test_every_mixture_is_that_of_plain_loops(run, tuned, corpus):
    result = recall_run(run, "valid", "cache,mbpa", tuned=tuned)
    assert result == json.loads((run / "result.json").read_text())
    tokens, trained = np.asarray(corpus.split("valid")), open_run(run)
    hidden, model = activations(trained, tokens)
    everywhere = range(1, len(tokens))
    cache = np.concatenate([model[:1], plain_cache(hidden, tokens, **CACHE, positions=everywhere)])
    mbpa = plain_mbpa(trained.model.head, hidden, tokens, **MBPA, positions=everywhere)
    mbpa = np.concatenate([model[:1], mbpa])
    want = {
        "model": (model, 0, 0),
        "+ cache": (plain_mixture(model, [(cache, 0.3)]), 0.3, 0),
        "+ MbPA": (plain_mixture(model, [(mbpa, 0.2)]), 0, 0.2),
        "+ cache + MbPA": (plain_mixture(model, [(cache, 0.25), (mbpa, 0.1)]), 0.25, 0.1),
    }
    found = variants(result)
    assert list(found) == list(want)
    for name, (nll_N, cache_weight, mbpa_weight) in want.items():
        nll, bands = by_band(nll_N, corpus.vocabulary.counts[tokens])
        assert found[name]["nll"] == pytest.approx(nll, abs=2e-6), name
        assert found[name]["perplexity"] == pytest.approx(np.exp(nll), rel=3e-6)
        for band, other in zip(found[name]["bands"], bands, strict=True):
            assert (band["name"], band["tokens"]) == (other["name"], other["tokens"])
            assert (band["perplexity"] is None) == (not band["tokens"])
            assert not band["tokens"] or band["perplexity"] == pytest.approx(other["perplexity"], rel=3e-5)
        assert (found[name]["cache_weight"], found[name]["mbpa_weight"]) == (cache_weight, mbpa_weight)
    assert len({row["nll"] for row in found.values()}) == 4
    assert {key: result[key] for key in ("nll", "perplexity", "bands")} == {
        key: found["+ cache + MbPA"][key] for key in ("nll", "perplexity", "bands")
    }
    memory = result["memory"]
    assert memory["cache"] == {**CACHE, "weight": 0.25}
    assert memory["mbpa"] == {**MBPA, "weight": 0.1}
    assert memory["tuned"] == str(tuned)
    assert memory["seconds"] == result["seconds"] > 0


@pytest.mark.parametrize("memory", ["cache", "mbpa", "cache,mbpa"])
def test_the_model_alone_is_the_plain_evaluation(memory, run):
    plain = evaluate_run(run, "test")
    assert plain["memory"] is None
    result = recall_run(run, "test", memory)
    assert set(result) == set(plain)
    names = ["model", "+ cache", "+ MbPA", "+ cache + MbPA"]
    wanted = {"cache": names[:2], "mbpa": [names[0], names[2]], "cache,mbpa": names}[memory]
    assert list(variants(result)) == wanted
    model = variants(result)["model"]
    assert {key: model[key] for key in ("nll", "perplexity", "bands")} == {
        key: plain[key] for key in ("nll", "perplexity", "bands")
    }
    different = {"seconds", "nll", "perplexity", "bands", "memory"}
    assert {k: v for k, v in result.items() if k not in different} == {
        k: v for k, v in plain.items() if k not in different
    }
    paper = {"cache": {"size": 10_000, "theta": 0.3, "weight": 0.1}}
    paper["mbpa"] = {"size": 10_000, "k": 1024, "lr": 0.3, "beta": 0.5, "steps": 1, "weight": 0.04}
    for name, settings in paper.items():
        assert result["memory"][name] == (settings if name in memory.split(",") else None)
    assert result["memory"]["tuned"] is None


def test_the_passage_gets_the_numbers(run, tuned, corpus, monkeypatch):
    given = []
    monkeypatch.setattr("firstsight.lab.reading.recalled.write_passage", lambda *arguments: given.append(arguments))
    result = recall_run(run, "valid", "cache", tuned=tuned)
    opened, tokens, split, settings, nll, memories, by_document = given[0]
    assert ({name: len(memory) for name, memory in memories.items()}, by_document) == ({"cache": 0}, False)
    assert (opened.folder, split, opened.step) == (run, "valid", result["checkpoint"]["step"])
    assert np.array_equal(tokens, corpus.split("valid"))
    assert settings == {key: value for key, value in result["memory"].items() if key != "variants"}
    assert list(nll) == ["model", "cache"]
    assert nll["cache"].dtype == np.float32
    assert nll["cache"][0] == nll["model"][0]
    assert np.isinf(nll["cache"]).any(), "a word that the cache has not met"
    assert not np.isnan(nll["cache"]).any()


def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    """Make the memories' ``after``-th scoring fail; the list that is returned counts those that were done."""
    real, calls = Recalling.read, []

    def read(self, segment):
        if after is not None and len(calls) == after:
            raise error
        calls.append(segment.first)
        return real(self, segment)

    monkeypatch.setattr(Recalling, "read", read)
    return calls


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_cut_off_it_goes_on(error, run, tuned, small_chunks, monkeypatch, capsys):
    undisturbed = recall_run(run, "valid", "cache,mbpa", tuned=tuned)
    with monkeypatch.context() as patch:
        interrupt(patch, 11, error)  # in the middle of the sixth chunk
        with pytest.raises(error):
            recall_run(run, "valid", "cache,mbpa", tuned=tuned)
    assert (run / "memory/partial-valid.npz").exists()
    calls = interrupt(monkeypatch, None)
    result = recall_run(run, "valid", "cache,mbpa", tuned=tuned)
    assert "going on after 640 tokens" in capsys.readouterr().err
    assert min(calls) == 640
    for name, row in variants(result).items():
        assert row["nll"] == pytest.approx(variants(undisturbed)[name]["nll"], abs=1e-7), name
    assert not (run / "memory/partial-valid.npz").exists()


@pytest.mark.parametrize("change", ["settings", "model", "split", "damage", "weights"])
def test_what_was_read_is_used_only_where_it_fits(change, run, tuned, small_chunks, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            recall_run(run, "valid", "cache", tuned=tuned)
    partial, how = run / "memory/partial-valid.npz", {"tuned": tuned}
    if change == "settings":
        how["tuned"] = write_tuned(run, tuned, cache={"size": 151, "theta": 0.3})
    elif change == "weights":
        how["tuned"] = write_tuned(run, tuned, mixtures=[{"weights": {"cache": 0.01}}, *MIXTURES[1:]])
    elif change == "model":
        state = load_checkpoint(run / "checkpoints/best.pt")
        state["model"]["head.weight"] *= 1.1
        with hold(run):
            save_checkpoint(run / "checkpoints/best.pt", state)
        how["tuned"] = write_tuned(run, tuned)
    elif change == "damage":
        content = bytearray(partial.read_bytes())
        content[len(content) // 2] ^= 0xFF
        partial.write_bytes(content)
    calls = interrupt(monkeypatch, None)
    recall_run(run, "test" if change == "split" else "valid", "cache", **how)
    said = capsys.readouterr().err
    assert min(calls) == (896 if change == "weights" else 0), "weights are mixed in at the end"
    assert ("starting anew" in said) == (change in ("settings", "model", "damage"))


@pytest.mark.parametrize("memory", ["", "cache,cache", "cache,", "Cache", "none"])
def test_other_memories_are_refused(memory, run):
    with pytest.raises(
        InputError,
        match=f"--memory is {memory!r}; expected one or more of cache, mbpa, unbounded, knn, dynamic",
    ):
        recall_run(run, "valid", memory)


def test_the_order_in_which_memories_are_named_is_of_no_account(run):
    one, other = (recall_run(run, "valid", memory) for memory in ("cache,mbpa", "mbpa,cache"))
    assert variants(one) == variants(other)


def test_a_file_of_another_model(run, tuned, trained_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    shutil.copy(other / "checkpoints/last.pt", other / "checkpoints/best.pt")
    state = load_checkpoint(other / "checkpoints/last.pt")
    with hold(other):
        save_checkpoint(other / "checkpoints/best.pt", state | {"step": 33})
    with pytest.raises(InputError, match="tuned for the run run, checkpoint best of step 60") as caught:
        recall_run(other, "valid", "cache", tuned=tuned)
    assert "step 33" in str(caught.value)
    assert f"firstsight sweep memory {other}." in str(caught.value)
    with pytest.raises(InputError, match="--checkpoint last"):
        recall_run(other, "valid", "cache", tuned=tuned, checkpoint="last")


def test_a_file_without_mbpa(run, tmp_path):
    path = write_tuned(run, tmp_path / "t.json", mbpa=None, mixtures=[{"weights": {"cache": 0.2}}])
    assert variants(recall_run(run, "valid", "cache", tuned=path))["+ cache"]["cache_weight"] == 0.2
    for memory in ("mbpa", "cache,mbpa"):
        with pytest.raises(InputError, match="holds no settings of MbPA: its sweep was made without"):
            recall_run(run, "valid", memory, tuned=path)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("checkpoint", "sha256"), None, "checkpoint.sha256"),
        (("chosen", "cache", "size"), 0, "chosen.cache.size"),
        (("chosen", "cache", "theta"), -1, "chosen.cache.theta"),
        (("chosen", "mbpa", "k"), 1.5, "chosen.mbpa.k"),
        (("chosen", "mbpa"), [], "chosen.mbpa.size, chosen.mbpa.k, chosen.mbpa.lr, chosen.mbpa.beta"),
        (("chosen", "mixtures", 2, "weights", "mbpa"), 0.9, "chosen.mixtures"),
        (("chosen", "mixtures", 0, "weights", "cache"), 1.01, "chosen.mixtures"),
        (("chosen", "mixtures", 0), None, "chosen.mixtures"),
        (("chosen", "mixtures"), {}, "chosen.mixtures"),
        (("chosen", "by_band"), [{"cache": 0.1}], "chosen.by_band"),
        (("chosen", "dynamic"), {"rule": 3, "lr": 0.1}, "chosen.dynamic.rule, chosen.dynamic.decay"),
        (("run",), 3, "run"),
    ],
)
def test_a_damaged_file_of_settings(place, value, named, run, tuned):
    content = json.loads(tuned.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    tuned.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"missing or of another kind: {named}"):
        recall_run(run, "valid", "cache,mbpa", tuned=tuned)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "null"])
def test_no_file_of_settings(text, run, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match="firstsight sweep memory"):
        recall_run(run, "valid", "cache", tuned=tmp_path / "t.json")
    with pytest.raises(InputError, match="there is no such file"):
        recall_run(run, "valid", "cache", tuned=tmp_path / "missing.json")


def test_a_model_that_has_diverged(run):
    state = load_checkpoint(run / "checkpoints/best.pt")
    state["model"]["head.weight"][3] = torch.nan
    save_checkpoint(run / "checkpoints/best.pt", state)
    with pytest.raises(InputError, match="diverged"):
        recall_run(run, "valid", "cache")
    assert not (run / "result.json").exists()
