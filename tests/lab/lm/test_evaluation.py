"""Evaluation against a loop that reads one token at a time, in float64."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.heads import HebbianSoftmax, Softmax
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.evaluation import Evaluation, evaluate, token_nll
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Plain, Text, read

V, EOS = 13, 1
TEXT = np.random.default_rng(0).integers(0, V, 101, dtype=np.uint32)
COUNTS = np.array([10_001, 10_000, 9_999, 1_000, 999, 100, 99, 1, 0, 0, 5, 50_000, 500])


class PlainHead(Softmax):
    """The reference head: a softmax, whole."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes, bias=False)
        nn.init.uniform_(self.weight, -2, 2)
        self.largest = 0

    def nll(self, h: Tensor, y: Tensor) -> Tensor:
        self.largest = max(self.largest, y.numel())
        log_prob = (h @ self.weight.t()).log_softmax(-1).flatten(0, -2)
        losses = nn.functional.nll_loss(log_prob, y.flatten(), ignore_index=-100, reduction="none")
        return losses.view(y.shape)


def make_model(dtype: torch.dtype = torch.float64) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(V, Config(embedding=6, hidden=8, dropout=0.5), PlainHead(6, V)).to(dtype)
    with torch.no_grad():
        model.lstm[0].weight_hh_l0.mul_(3)  # so that what came before matters
    return model


MODEL, SINGLE = make_model(), make_model(torch.float32)


def part(tokens: list[int], before: int) -> list[float]:
    """The loop: a part of a text after the token ``before``, one token at a time, from a zero state."""
    MODEL.eval()
    state, nll = None, []
    with torch.no_grad():
        for token, target in zip([before, *tokens[:-1]], tokens, strict=True):
            hidden, state = MODEL(torch.tensor([[token]]), state)
            nll.append(-(hidden[0, 0] @ MODEL.head.weight.t()).log_softmax(-1)[target].item())
    MODEL.train()
    return nll


def in_segments(model, text, streams: int, size: int) -> np.ndarray:
    return read(Text(model, text, EOS, streams, size), {"model": Plain(model.head)})["model"]


REFERENCE = np.array(part(TEXT.tolist(), EOS))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 120))
def test_one_stream_equals_the_loop_for_every_segment_length(segment: int) -> None:
    nll = in_segments(MODEL, TEXT, 1, segment)
    assert nll.dtype == np.float32
    np.testing.assert_allclose(nll, REFERENCE, rtol=2e-7)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 40))
def test_streams_are_parts_that_start_afresh(streams: int, segment: int, extra: int) -> None:
    text = TEXT[: streams + extra]
    nll = in_segments(MODEL, text, streams, segment)
    sizes, start = [], 0
    for stream in range(streams):
        end = len(text) * (stream + 1) // streams
        want = part(text[start:end].tolist(), int(text[start - 1]) if start else EOS)
        np.testing.assert_allclose(nll[start:end], want, rtol=2e-7)
        sizes.append(end - start)
        start = end
    assert start == len(text)
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 120), st.integers(1, 7))
def test_perplexity_does_not_depend_on_the_segment_length_in_float32(segment: int, streams: int) -> None:
    got, want = in_segments(SINGLE, TEXT, streams, segment), evaluate(SINGLE, TEXT, COUNTS, eos_id=EOS, streams=streams)
    assert got.mean() == pytest.approx(want.nll, rel=1e-5)
    assert len(got) == want.tokens == len(TEXT)
    assert want.streams == streams


def test_evaluation_equals_the_loop() -> None:
    got = evaluate(MODEL, TEXT, COUNTS, eos_id=EOS)
    assert got.nll == pytest.approx(REFERENCE.mean(), rel=1e-7)
    assert got.perplexity == pytest.approx(math.exp(REFERENCE.mean()), rel=1e-6)
    assert got.seconds > 0


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_real_heads_agree_with_the_plain_one(kind: type[Softmax]) -> None:
    model = make_model()
    model.head, weight = kind(6, V, bias=False).double(), model.head.weight
    model.head.weight = weight
    model.head.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    np.testing.assert_allclose(in_segments(model, TEXT, 1, 9), REFERENCE, rtol=2e-7)
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "evaluation must leave nothing to be written"


def test_bands_by_training_count() -> None:
    """Each type alone in its own text tells on which side of an edge it lies."""
    names = [">10K", "1K-10K", "1K-10K", "1K-10K", "100-1K", "100-1K", "<100", "<100", "unseen", "unseen", "<100"]
    for token, name in enumerate([*names, ">10K", "100-1K"]):
        result = evaluate(MODEL, np.array([token]), COUNTS, eos_id=EOS)
        assert [band["name"] for band in result.bands] == [">10K", "1K-10K", "100-1K", "<100", "unseen"]
        for band in result.bands:
            assert band["tokens"] == (band["name"] == name)
            assert band["perplexity"] == (result.perplexity if band["name"] == name else None)


def test_bands_add_up() -> None:
    result = evaluate(MODEL, TEXT, COUNTS, eos_id=EOS, streams=3)
    assert all(band["tokens"] for band in result.bands)
    assert sum(band["tokens"] for band in result.bands) == result.tokens == len(TEXT)
    total = sum(band["tokens"] * math.log(band["perplexity"]) for band in result.bands)
    assert total / result.tokens == pytest.approx(math.log(result.perplexity), rel=1e-12)
    unseen = token_nll(MODEL, TEXT, eos_id=EOS, streams=3)[COUNTS[TEXT] == 0].astype(np.float64)
    assert result.bands[-1]["perplexity"] == pytest.approx(math.exp(unseen.mean()), rel=1e-12)


def test_sums_are_held_in_float64() -> None:
    """A sum of equal terms in float32 is off by far more than this."""

    class Constant(PlainHead):
        def nll(self, h: Tensor, y: Tensor) -> Tensor:
            return torch.full(y.shape, 0.1)

    model = LanguageModel(V, Config(embedding=4, hidden=4, dropout=0.0), Constant(4, V))
    result = evaluate(model, np.resize(TEXT, 5_000), COUNTS, eos_id=EOS, streams=50)
    assert result.nll == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_mode_and_gradient_are_left_as_they_were() -> None:
    model = make_model()
    model.dropout.eval()  # a part that its owner has frozen
    evaluate(model, TEXT, COUNTS, eos_id=EOS)
    assert model.training
    assert model.head.training
    assert not model.dropout.training
    with pytest.raises(ZeroDivisionError):
        evaluate(model, TEXT, COUNTS, eos_id=EOS, progress=lambda done: 1 / 0)
    assert model.training
    model(torch.tensor([[1, 2]]))[0].sum().backward()
    assert model.head.weight.grad.any()


def test_progress_and_the_default_segment() -> None:
    seen: list[int] = []
    model = make_model(torch.float32)
    text = np.resize(TEXT, 3001)
    token_nll(model, text, eos_id=EOS, progress=seen.append)
    assert seen == [1024, 2048, 3001]
    seen.clear()
    token_nll(model, text, eos_id=EOS, streams=4, progress=seen.append)
    assert seen == [1024, 2048, 3001]
    assert model.head.largest == 1024
    token_nll(model, text, eos_id=EOS, streams=2000, progress=seen.append)
    assert seen[3:] == [2000, 3001]


def test_reads_a_memory_map(tmp_path: object) -> None:
    TEXT.tofile(f"{tmp_path}/text")
    mapped = np.memmap(f"{tmp_path}/text", dtype=np.uint32, mode="r")
    np.testing.assert_allclose(token_nll(MODEL, mapped, eos_id=EOS), REFERENCE, rtol=2e-7)
    assert type(token_nll(MODEL, mapped, eos_id=EOS)) is np.ndarray
    assert evaluate(MODEL, mapped, COUNTS, eos_id=EOS).nll == pytest.approx(REFERENCE.mean(), rel=1e-7)


def test_to_dict_is_json() -> None:
    result = evaluate(MODEL, TEXT[:3], COUNTS, eos_id=EOS)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert result.to_dict()["bands"] == result.bands


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
def test_a_diverged_model_still_gives_json(value: float) -> None:
    class Broken(PlainHead):
        def nll(self, h: Tensor, y: Tensor) -> Tensor:
            return torch.full(y.shape, value)

    result = evaluate(LanguageModel(V, Config(embedding=6), Broken(6, V)), TEXT, COUNTS, eos_id=EOS)
    assert result.perplexity == math.inf or (math.isnan(value) and math.isnan(result.perplexity))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["perplexity"] is None
    assert {band["perplexity"] for band in plain["bands"]} == {None}
    assert plain["nll"] == (pytest.approx(1e30) if value == 1e30 else None)


def run(text: np.ndarray = TEXT, counts: np.ndarray = COUNTS, **options: int) -> Evaluation:
    return evaluate(MODEL, text, counts, eos_id=EOS, **options)


def test_bad_input_is_explained() -> None:
    with pytest.raises(InputError, match=r"ids run from 0 to 13.*0 to 12"):
        run(np.array([0, 13]))
    with pytest.raises(InputError, match="ids run from -1 to 12"):
        run(np.array([-1, 12]))
    with pytest.raises(InputError, match="one or more token ids"):
        run(np.array([], dtype=np.uint32))
    with pytest.raises(InputError, match=r"shape \[1, 2\]"):
        run(np.array([[1, 2]]))
    with pytest.raises(InputError, match="float64"):
        run(np.array([1.0]))
    with pytest.raises(InputError, match="counts has 12 entries but the model knows 13"):
        run(counts=COUNTS[:-1])
    with pytest.raises(InputError, match="streams is 0"):
        run(streams=0)
    with pytest.raises(InputError, match="streams is 102"):
        run(streams=102)
    with pytest.raises(InputError, match="size is 0"):
        in_segments(MODEL, TEXT, 1, 0)
