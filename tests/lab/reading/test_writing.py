"""Writing at test time against a loop over tokens that knows nothing of segments, in float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.heads import HebbianSoftmax, Softmax
from firstsight.heads.rules import RULES
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.evaluation import token_nll
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.reading.moments import measure_moments
from firstsight.lab.reading.writing import Writing, adapted_nll

V, D, EOS, UNK = 23, 6, 1, 0
COUNTS = np.array([900, 700, 400, 200, 100, 99, 60, 30, 20, 10, 9, 8, 7, 6, 5, 4, 3, 3, 2, 2, 1, 1, 0])


def zipf(n: int, seed: int = 0) -> np.ndarray:
    share = 1 / np.arange(1, V + 1)
    return np.random.default_rng(seed).choice(V, n, p=share / share.sum()).astype(np.uint32)


def make_model(dtype: torch.dtype = torch.float64, kind: type[Softmax] = Softmax, **settings: object) -> LanguageModel:
    torch.manual_seed(0)
    config = Config(embedding=D, hidden=8, dropout=0.5, **settings)  # type: ignore[arg-type]
    model = LanguageModel(V, config, kind(D, V)).to(dtype)
    with torch.no_grad():
        model.head.weight.mul_(2)
        model.head.bias.normal_()
        model.lstm[0].weight_hh_l0.mul_(3)
    return model.eval()


def activations(model: LanguageModel, tokens: np.ndarray) -> Tensor:
    """[N, D], one token at a time."""
    state, hidden = None, []
    with torch.no_grad():
        for token in [EOS, *tokens[:-1].tolist()]:
            h, state = model(torch.tensor([[token]]), state)
            hidden.append(h[0, 0])
    return torch.stack(hidden)


def written(
    writing: Writing, row: Tensor, x: Tensor, n: int, count: int, sights: int, moments: tuple[Tensor, Tensor]
) -> Tensor:
    """A row after one write of the mean x of n activations, and by how much its bias rises, as [D + 1]."""
    rule, (mean, covariance) = RULES[writing.rule], moments
    rate = writing.gamma if count else max(1 / (1 + sights), writing.gamma)
    if rule.shrinking:
        rate = n / (writing.prior_count + count + sights + n)
    if rule.centered or rule.whitened:
        x = x - mean
    if rule.whitened:
        x = covariance.inverse() @ x
    if rule.scaled:
        x = x / x.norm() * row.norm()
    new = row + rate * x if rule.additive else rate * x + (1 - rate) * row
    if rule.kept:
        new = new / new.norm() * row.norm()
    rise = 0.0
    if rule.calibrated:
        share = [r @ mean + 0.5 * (r @ covariance @ r) for r in (row, new)]
        rise = float(share[0] - share[1])
    return torch.cat([new, torch.tensor([rise], dtype=new.dtype)])


def frozen_moments(model: LanguageModel, tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    h = activations(model, tokens).double()
    covariance = (h - h.mean(0)).t() @ (h - h.mean(0)) / len(h)
    return h.mean(0), covariance + 0.01 * covariance.diagonal().mean() * torch.eye(D)


def loop(model: LanguageModel, tokens: np.ndarray, writing: Writing, starts: tuple[int, ...] = ()) -> np.ndarray:
    """The reference: blocks counted from each document's start, rows as a whole, classes one by one."""
    hidden, moments = activations(model, tokens).double(), frozen_moments(model, TRAINING)
    limit = math.inf if writing.max_count is None else writing.max_count
    borders, nll = [0, *starts, len(tokens)], []
    for start, stop in pairwise(borders):
        rows, bias = model.head.weight.detach().double().clone(), model.head.bias.detach().double().clone()
        sights = [0] * V
        for first in range(start, stop, writing.block):
            block = range(first, min(first + writing.block, stop))
            nll += [-(rows @ hidden[i] + bias).log_softmax(0)[tokens[i]].item() for i in block]
            for token in {int(tokens[i]) for i in block}:
                own = [hidden[i] for i in block if tokens[i] == token]
                if COUNTS[token] < limit and sights[token] < writing.T:
                    seen = int(COUNTS[token]), sights[token]
                    new = written(writing, rows[token], torch.stack(own).mean(0), len(own), *seen, moments)
                    rows[token] = new[:-1]
                    bias[token] += new[-1]
                sights[token] += len(own)
    return np.array(nll)


TRAINING, TEXT = zipf(300, seed=1), zipf(173)
MODEL = make_model()
MOMENTS = measure_moments(MODEL, TRAINING, eos_id=EOS)


def adapted(writing: Writing, text: np.ndarray = TEXT, model: LanguageModel = MODEL, **options: object) -> np.ndarray:
    moments = MOMENTS if model is MODEL else measure_moments(model, TRAINING, eos_id=EOS)
    return adapted_nll(model, text, writing, counts=COUNTS, eos_id=EOS, moments=moments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_equals_the_loop_for_every_rule(rule: str) -> None:
    writing = Writing(rule=rule, gamma=0.2, max_count=100, block=3)
    want = loop(MODEL, TEXT, writing)
    assert abs(want - loop(MODEL, TEXT, Writing(max_count=0))).max() > 0.01
    np.testing.assert_allclose(adapted(writing), want, rtol=3e-6)


@pytest.mark.parametrize("block", [1, 2, 7, 172, 173, 5000])
@pytest.mark.parametrize("max_count", [4, None])
def test_equals_the_loop_for_every_block(block: int, max_count: int | None) -> None:
    writing = Writing(gamma=0.3, max_count=max_count, block=block)
    np.testing.assert_allclose(adapted(writing), loop(MODEL, TEXT, writing), rtol=3e-6)


def test_segments_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 20)
    for block in (1, 7, 30):
        writing = Writing(gamma=0.3, max_count=None, block=block)
        np.testing.assert_allclose(adapted(writing), loop(MODEL, TEXT, writing), rtol=3e-6)
        got = adapted(writing, starts=[0, 31, 32, 90])
        np.testing.assert_allclose(got, loop(MODEL, TEXT, writing, (31, 32, 90)), rtol=3e-6)


def test_sights_past_T_are_not_written() -> None:
    writing = Writing(gamma=0.3, max_count=None, T=4, block=2)
    want = loop(MODEL, TEXT, writing)
    assert abs(want - loop(MODEL, TEXT, Writing(gamma=0.3, max_count=None, block=2))).max() > 0.01
    np.testing.assert_allclose(adapted(writing), want, rtol=3e-6)


def test_a_document_begins_with_the_trained_rows() -> None:
    writing = Writing(gamma=0.3, max_count=None, block=2)
    want = loop(MODEL, TEXT, writing, (50, 51, 120))
    assert abs(want - loop(MODEL, TEXT, writing)).max() > 0.01
    np.testing.assert_allclose(adapted(writing, starts=(50, 51, 120)), want, rtol=3e-6)


@pytest.mark.parametrize("settings", [{"tied": True}, {"tied": False}, {"tied": False, "layers": 2}])
@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_any_model_in_float32(kind: type[Softmax], settings: dict[str, int]) -> None:
    model = make_model(torch.float32, kind, **settings)
    writing = Writing(gamma=0.3, max_count=None, block=2)
    np.testing.assert_allclose(adapted(writing, model=model), loop(model, TEXT, writing), rtol=2e-5)


def test_nothing_written_is_the_model_itself() -> None:
    np.testing.assert_allclose(adapted(Writing(max_count=0)), token_nll(MODEL, TEXT, eos_id=EOS), rtol=1e-6)
    unseen_alone = np.where(TEXT == V - 1)[0]
    assert len(unseen_alone)
    got = abs(adapted(Writing(gamma=0.0, rule="direction")) - token_nll(MODEL, TEXT, eos_id=EOS))
    assert got[: unseen_alone[0] + 1].max() < 1e-5, "a rate of 0 moves no trained row"
    assert got[unseen_alone[0] + 1 :].max() > 0.01, "a class that training lacks is written outright"


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_the_model_comes_back_unchanged(kind: type[Softmax]) -> None:
    model = make_model(torch.float32, kind, tied=True).train()
    model.dropout.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    writing = Writing(gamma=0.5, max_count=None)
    adapted(writing, model=model)
    with pytest.raises(ZeroDivisionError):
        adapted(writing, model=model, progress=lambda done: 1 / 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training
    assert not model.dropout.training


def test_bad_settings_are_explained() -> None:
    with pytest.raises(InputError, match="rule is 'none'"):
        Writing(rule="none")
    with pytest.raises(InputError, match="gamma is 2"):
        Writing(gamma=2)
    with pytest.raises(InputError, match="block is 0"):
        Writing(block=0)
    with pytest.raises(InputError, match="needs the moments"):
        adapted_nll(MODEL, TEXT, Writing(rule="whitened"), counts=COUNTS, eos_id=EOS)
    with pytest.raises(InputError, match="counts has 22 entries but the layer 23"):
        adapted_nll(MODEL, TEXT, Writing(rule="direction"), counts=COUNTS[:-1], eos_id=EOS)
    with pytest.raises(InputError, match="ids run from 0 to 23"):
        adapted(Writing(), np.array([0, 23]))
