"""The classes that training met last, and those that the write moves most."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from training_runs import TINY

from firstsight.functional import class_means
from firstsight.heads.rules import find_rule
from firstsight.lab.data.bands import BANDS, EDGES
from firstsight.lab.data.vocabulary import EOS, UNK, Vocabulary
from firstsight.lab.lm.reader import reading
from firstsight.lab.lm.run import Run, build_model
from firstsight.lab.reading.moments import measure_moments
from firstsight.lab.reading.passage import classes
from firstsight.lab.reading.passage.classes import first_sights, latest_classes, moved_classes
from firstsight.lab.reading.writing import Writing

V = 30


def make_run(tmp_path, counts, **settings):
    torch.manual_seed(1)
    config = dataclasses.replace(TINY, **settings)
    model = build_model(V, config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    words = [UNK, EOS, *(f"w{i}" for i in range(V - 2))]
    return Run(tmp_path, model, Vocabulary(words, counts, "whitespace"), "data", config, "best", 8)


def draw(length, most=V, seed=0):
    return np.random.default_rng(seed).integers(0, most, length).astype(np.uint32)


@pytest.mark.parametrize("at_once", [1, 7, 64, 10_000])
@pytest.mark.parametrize("length", [0, 1, 50, 1000])
def test_first_sights_equal_a_search(monkeypatch, length, at_once):
    monkeypatch.setattr(classes, "READ_AT_ONCE", at_once)
    tokens = draw(length, 20).tolist()
    want = [tokens.index(index) if index in tokens else length for index in range(V)]
    assert first_sights(np.array(tokens, dtype=np.uint32), V).tolist() == want


def test_the_classes_met_last(tmp_path):
    train = np.concatenate([draw(500, 8), [20, 21, 20, 9], draw(100, 8)]).astype(np.uint32)
    counts = np.bincount(train, minlength=V)
    counts[3] = 5000  # bands of their own
    run = make_run(tmp_path, counts)
    tokens = np.array([20, 3, 20, 9, 1], dtype=np.uint32)
    model, mixture = np.arange(1.0, 6.0), np.arange(5.0, 0.0, -1.0)
    found = latest_classes(run, train, tokens, model, mixture)
    assert (found["train_tokens"], found["never"]) == (604, V - 11)
    first = {index: train.tolist().index(index) for index in set(train.tolist())}
    order = sorted(first, key=first.get, reverse=True)
    assert [row["class"] for row in found["classes"]] == order
    assert order[:3] == [9, 21, 20]
    lengths = [math.sqrt(math.fsum(x * x for x in row)) for row in run.model.head.weight.tolist()]
    bands = [sum(count >= edge for edge in EDGES) for count in counts]
    for row in found["classes"]:
        index = row["class"]
        assert (row["place"], row["count"]) == (first[index], counts[index])
        assert row["band"] == BANDS[bands[index]]
        assert row["length"] == pytest.approx(lengths[index], rel=1e-12)
        alike = [length for length, band in zip(lengths, bands, strict=True) if band == bands[index]]
        assert row["band_length"] == pytest.approx(np.median(alike), rel=1e-12)
    by_class = {row["class"]: row for row in found["classes"]}
    assert (by_class[20]["tokens"], by_class[20]["model"], by_class[20]["mixture"]) == (2, 2.0, 4.0)
    assert (by_class[21]["tokens"], by_class[21]["model"], by_class[21]["mixture"]) == (0, None, None)
    assert len({row["band"] for row in found["classes"]}) == 2


def plain_write(run, train, h, tokens, begin, stop, starts):
    """The rows written token by token, one after another; the NLL of each, and the farthest that each row was moved."""
    writing, counts = Writing(), run.vocabulary.counts
    rule = find_rule(writing.rule)
    moments = measure_moments(run.model, train, eos_id=1)
    start = run.model.head.weight.detach().clone()
    rows, seen, nll, moved = start.clone(), [0] * V, [], [0.0] * V

    def look():
        for index in range(V):
            moved[index] = max(moved[index], float((rows[index] - start[index]).norm() / start[index].norm()))

    for t in range(begin, stop):
        if t in starts and t > begin:
            look()
            rows, seen = start.clone(), [0] * V
        index = int(tokens[t])
        nll.append(float(-torch.log_softmax(rows @ h[t], 0)[index]))
        if counts[index] < writing.max_count:
            rate = writing.gamma if counts[index] else max(1 / (1 + seen[index]), writing.gamma)
            x = rule.prepare(class_means(h[t][None], torch.tensor([0]))[1], moments)
            rows[index] = rule.move(rows[index][None], x, torch.tensor([rate], dtype=torch.float64), moments)[0]
            seen[index] += 1
    look()
    return nll, moved


@pytest.mark.parametrize("starts", [[], [0, 50, 90]])
def test_the_classes_that_a_write_moves(tmp_path, monkeypatch, starts):
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 16)
    train, tokens = draw(400, 25, 5), draw(150, V, 6)
    counts = np.bincount(train, minlength=V)
    counts[4] = 2000  # too frequent to be written
    run = make_run(tmp_path, counts)
    model_N = np.random.default_rng(2).uniform(1, 9, 150)
    with reading(run.model):
        segments = [part for one in run.text(tokens, starts=starts) if (part := one.part(30, one.stop)).target.numel()]
    found = moved_classes(run, train, tokens, model_N, segments, starts)
    with torch.no_grad():
        h = run.model(torch.tensor([[1, *tokens[:-1].tolist()]]))[0][0]
    nll, moved = plain_write(run, train, h, tokens, 30, 150, starts)
    assert (found["first"], found["stop"], found["documents"]) == (30, 150, 3 if starts else 1)
    assert found["writing"] == dataclasses.asdict(Writing())
    assert len(found["classes"]) == 20
    assert [row["moved"] for row in found["classes"]] == pytest.approx(sorted(moved, reverse=True)[:20], rel=1e-9)
    for row in found["classes"]:
        index = row["class"]
        assert row["moved"] == pytest.approx(moved[index], rel=1e-9)
        document = [max([start for start in starts if start <= t], default=0) for t in range(150)]
        sights = [t for t in range(30, 150) if tokens[t] == index]
        later = [t for i, t in enumerate(sights) if i and max(document[t], 30) == max(document[sights[i - 1]], 30)]
        assert (row["sights"], row["later"], row["count"]) == (len(sights), len(later), counts[index])
        if later:
            assert row["model"] == pytest.approx(np.mean(model_N[later]), rel=1e-12)
            assert row["written"] == pytest.approx(np.mean([nll[t - 30] for t in later]), rel=1e-6)
        else:
            assert (row["model"], row["written"]) == (None, None)
    assert 4 not in {row["class"] for row in found["classes"]}


def test_a_head_without_a_write_says_so(tmp_path):
    run = make_run(tmp_path, np.ones(V), head="softmax")
    found = moved_classes(run, draw(40), draw(40), np.ones(40), [], [])
    assert found == {"why": "The head of this run, softmax, writes nothing: it learns by gradient alone."}


def test_rows_of_several_widths_have_no_length(tmp_path):
    run = make_run(tmp_path, np.ones(V), cutoffs="6", tied=False)
    assert "several widths" in moved_classes(run, draw(40), draw(40), np.ones(40), [], [])["why"]
    found = latest_classes(run, draw(40), draw(40), np.ones(40), np.ones(40))
    assert {(row["length"], row["band_length"]) for row in found["classes"]} == {(None, None)}


def test_the_model_is_left_as_it_was(tmp_path):
    run = make_run(tmp_path, np.ones(V))
    before = run.model.head.weight.detach().clone()
    with reading(run.model):
        segments = list(run.text(draw(60)))
    moved_classes(run, draw(60), draw(60), np.ones(60), segments, [])
    assert torch.equal(run.model.head.weight, before)
