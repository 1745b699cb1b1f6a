"""New words as classes against a loop that grows its rows one by one, and the numbers that a run's text gives."""

import math

import numpy as np
import pytest
import torch
from test_writing import COUNTS, EOS, MODEL, MOMENTS, TRAINING, UNK, D, V, activations, frozen_moments, loop, written
from torch import Tensor

from firstsight.functional.first_sight import first_sight, look
from firstsight.lab.data import Vocabulary
from firstsight.lab.lm.evaluation import evaluate, token_nll
from firstsight.lab.reading.open_words import Newborn, closed, closed_nll, newborn, number, open_nll
from firstsight.lab.reading.tables import sight_table, sights_before, summary
from firstsight.lab.reading.writing import Writing

IDS = np.random.default_rng(2).integers(0, V, 157)
IDS[np.random.default_rng(3).random(157) < 0.3] = -1
NEW = np.random.default_rng(4).integers(0, 11, 157)
NAMES: dict[int, int] = {}
IDS = np.array([V + NAMES.setdefault(int(NEW[i]), len(NAMES)) if IDS[i] < 0 else IDS[i] for i in range(157)])
BASE = torch.linspace(-1, 1, D, dtype=torch.float64)
START = Newborn(BASE, norm=2.5, bias=0.7, seed=5)


SIGHT = look(
    MODEL.head.weight.detach(),
    MODEL.head.bias.detach(),
    torch.as_tensor(COUNTS),
    MOMENTS.mean(),
    MOMENTS.bare_covariance(),
    MOMENTS.cross(),
)


def directions(start: Newborn) -> Tensor:
    generator = torch.Generator().manual_seed(start.seed)
    return torch.randn(len(NAMES), D, generator=generator, dtype=torch.float64)


def open_loop(ids: np.ndarray, writing: Writing, start: Newborn) -> np.ndarray:
    """The reference: rows by class in a dict, a new one put into it at the end of the block of its first sight."""
    inputs = np.where(ids < V, ids, UNK)
    hidden, moments, random = activations(MODEL, inputs), frozen_moments(MODEL, TRAINING), directions(start)
    rows = dict(enumerate(torch.cat([MODEL.head.weight.detach(), MODEL.head.bias.detach()[:, None]], 1)))
    sights: dict[int, int] = {}
    limit = math.inf if writing.max_count is None else writing.max_count
    nll = []
    for first in range(0, len(ids), writing.block):
        block = range(first, min(first + writing.block, len(ids)))
        for i in block:
            logits = {token: row[:-1] @ hidden[i] + row[-1] for token, row in rows.items()}
            log_total = torch.stack(list(logits.values())).logsumexp(0)
            target = int(ids[i]) if int(ids[i]) in rows else UNK
            again = math.log(len({t for t in ids[:i] if t >= V})) if target != ids[i] and ids[i] in ids[:i] else 0.0
            nll.append(float(log_total - logits[target]) + again)
        for token in {int(ids[i]) for i in block}:
            own = torch.stack([hidden[i] for i in block if ids[i] == token])
            if token not in rows:
                direction = random[token - V] / random[token - V].norm()
                rows[token] = torch.cat([BASE + direction * start.norm, torch.tensor([start.bias])])
            if start.sighted and token >= V:
                row, seen = rows[token], torch.tensor([sights.get(token, 0)])
                given = row[None, :-1], row[-1:] * (seen > 0), seen, own.mean(0)[None], torch.tensor([len(own)])
                new_row, new_bias = first_sight(SIGHT, *given)
                rows[token] = torch.cat([new_row[0], new_bias]).to(row)
                sights[token] = sights.get(token, 0) + len(own)
                continue
            count = int(COUNTS[token]) if token < V else 0
            if start.written if token >= V else count < limit:
                row, base = rows[token], BASE if token >= V else 0 * BASE
                new = written(writing, row[:-1] - base, own.mean(0), len(own), count, sights.get(token, 0), moments)
                rows[token] = torch.cat([base + new[:-1], row[-1:] + new[-1:]])
            sights[token] = sights.get(token, 0) + len(own)
    return np.array(nll)


def opened(ids: np.ndarray, writing: Writing, start: Newborn = START) -> np.ndarray:
    return open_nll(MODEL, ids, writing, start, counts=COUNTS, unk_id=UNK, eos_id=EOS, moments=MOMENTS)


@pytest.mark.parametrize("rule", ["paper", "centered", "whitened"])
@pytest.mark.parametrize(("block", "max_count"), [(1, 0), (3, 50), (20, None)])
def test_equals_the_loop_that_grows(rule: str, block: int, max_count: int | None) -> None:
    writing = Writing(rule=rule, gamma=0.3, block=block, max_count=max_count)
    np.testing.assert_allclose(opened(IDS, writing), open_loop(IDS, writing, START), rtol=3e-6)


@pytest.mark.parametrize("block", [1, 4])
def test_new_words_that_are_met_as_in_service_equal_the_loop(block: int) -> None:
    writing, start = Writing(max_count=0, block=block), Newborn(BASE, 2.5, 0.7, sighted=True, seed=5)
    want = open_loop(IDS, writing, start)
    np.testing.assert_allclose(opened(IDS, writing, start), want, rtol=2e-3, atol=2e-3)
    assert abs(want - open_loop(IDS, writing, START)).max() > 0.1


def test_segments_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 24)
    writing = Writing(gamma=0.3, block=2, max_count=50)
    np.testing.assert_allclose(opened(IDS, writing), open_loop(IDS, writing, START), rtol=3e-6)


def test_unwritten_rows_keep_their_random_direction() -> None:
    writing, start = Writing(gamma=0.3, max_count=0), Newborn(BASE, 2.5, 0.7, written=False, seed=6)
    want = open_loop(IDS, writing, start)
    assert abs(want - open_loop(IDS, writing, START)).max() > 0.1
    np.testing.assert_allclose(opened(IDS, writing, start), want, rtol=3e-6)


def test_first_sights_pay_for_unk_and_no_new_word_changes_nothing() -> None:
    known = np.where(IDS < V, IDS, 3)
    writing = Writing(gamma=0.3, max_count=50)
    np.testing.assert_allclose(opened(known, writing), loop(MODEL, known, writing), rtol=3e-6)
    only = np.array([4, 5, V, 6, 7])
    unk = token_nll(MODEL, closed(only, V, UNK), eos_id=EOS)
    np.testing.assert_allclose(opened(only, Writing(max_count=0))[:3], unk[:3], rtol=1e-6)
    assert (opened(only, Writing(max_count=0))[3:] > unk[3:]).all(), "the new class takes its share of the mass"


def test_the_model_comes_back_unchanged() -> None:
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    opened(IDS, Writing(gamma=0.5, max_count=None))
    for name, value in MODEL.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_closed_baselines() -> None:
    ids = np.array([V, 2, V, V + 1, V + 1, V, V + 2, V])
    zero = np.zeros(len(ids))
    np.testing.assert_allclose(closed_nll(zero, ids, V), np.log([1, 1, 1, 1, 2, 2, 1, 3]))
    by_count = [1, 1, 1, 1, 1 / 3, 2 / 4, 1, 3 / 6]
    np.testing.assert_allclose(closed_nll(zero, ids, V, by_count=True), -np.log(by_count))


def test_new_words_are_numbered_at_first_sight() -> None:
    vocabulary = Vocabulary(["<unk>", "<eos>", "the", "cat"], [1, 1, 1, 1], "words")
    ids = number(["the", "dog", "<eos>", "cow", "dog", "<unk>", "cat"], vocabulary)
    assert ids.tolist() == [2, 4, 1, 5, 4, 0, 3]


def test_a_newborn_is_like_the_rarest_words() -> None:
    start = newborn(MODEL, COUNTS, offset=0.5)
    one, other = MODEL.head.weight.detach()[[20, 21]]
    torch.testing.assert_close(start.base, (one + other) / 2)
    assert start.norm == pytest.approx((one - other).norm().item() / 2)
    assert start.bias == pytest.approx(MODEL.head.bias[[20, 21]].mean().item() + 0.5)


def test_sights_within_a_document() -> None:
    ids = np.array([3, 3, 5, 3, 5, 5, 3])
    assert sights_before(ids).tolist() == [0, 1, 0, 2, 1, 2, 3]
    assert sights_before(ids, [0, 3]).tolist() == [0, 1, 0, 0, 0, 1, 1]
    nll = np.arange(7.0)
    table = sight_table({"model": nll}, ids, ids == 3)
    assert table == [
        {"seen": 0, "tokens": 1, "model": 0.0},
        {"seen": 1, "tokens": 1, "model": 1.0},
        {"seen": 2, "tokens": 2, "model": 4.5},
    ]


def test_the_summary_is_that_of_evaluation() -> None:
    tokens = IDS[IDS < V]
    got, want = (
        summary(token_nll(MODEL, tokens, eos_id=EOS), COUNTS[tokens]),
        evaluate(MODEL, tokens, COUNTS, eos_id=EOS),
    )
    assert got["nll"] == pytest.approx(want.nll, rel=1e-12)
    assert [band["tokens"] for band in got["bands"]] == [band["tokens"] for band in want.bands]
    assert [band["perplexity"] for band in got["bands"]] == [
        None if band["perplexity"] is None else pytest.approx(band["perplexity"], rel=1e-12) for band in want.bands
    ]
