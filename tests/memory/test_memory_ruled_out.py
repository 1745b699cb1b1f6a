"""The memories where the layer rules classes out, by the first tile of them or by their rows."""

import pytest
import torch
import torch.nn.functional as F
from memory_reference import PlainMbPA, assert_nll, make_head, make_stream

from firstsight import MbPA, NeuralCache, score_stream
from firstsight.memory import mbpa
from firstsight.memory.rows import Rows

LOWEST = torch.finfo(torch.float64).min


def kept_alone(head, kept):
    """The layer without the classes that are ruled out."""
    small = torch.nn.Linear(head.in_features, len(kept)).double()
    small.load_state_dict({"weight": head.weight[kept], "bias": head.bias[kept]})
    return small


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("by", [-torch.inf, LOWEST])
@pytest.mark.parametrize("kept", [range(550, 600), range(599, 600)], ids=["few", "one"])
def test_mbpa(by, kept, steps, monkeypatch):
    monkeypatch.setitem(mbpa._TILE, "cpu", 1)
    head, (hidden, target) = make_head(0, 600, 4), make_stream(0, (25,), len(kept), 4)
    with torch.no_grad():
        head.bias[: kept[0]] = by
    found = MbPA(20, 5, steps=steps).nll(head, hidden, target + kept[0])
    assert_nll(found, PlainMbPA(20, 5, 0.3, 0.5, steps).nll(kept_alone(head, list(kept)), hidden, target))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by", ["bias", "lowest", "rows"])
def test_a_stream(by, dtype, steps):
    """1,120 tokens, the first 512 of 600 classes ruled out: with and without the memories no NaN."""
    head, (hidden, target) = make_head(1, 600, 4).to(dtype), make_stream(1, (1120 if steps == 1 else 40,), 88, 4)
    hidden = hidden.to(dtype)
    hidden[:, 0] = 5
    with torch.no_grad():
        if by == "rows":
            head.weight[:, 0], head.weight[:512, 0] = 0, torch.finfo(dtype).min
        else:
            head.bias[:512] = -torch.inf if by == "bias" else torch.finfo(dtype).min
    small = kept_alone(head, list(range(512, 600))).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    alone = score_stream(head, hidden, target + 512)
    expected = F.cross_entropy(F.linear(hidden, small.weight, small.bias), target, reduction="none")
    torch.testing.assert_close(alone, expected, rtol=tolerance, atol=tolerance)
    for cache, adapted in ((True, False), (False, True), (True, True)):
        found, plain = (
            score_stream(
                layer,
                hidden,
                labels,
                cache=NeuralCache(100) if cache else None,
                mbpa=MbPA(100, 10, steps=steps) if adapted else None,
            )
            for layer, labels in ((head, target + 512), (small, target))
        )
        torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("by", [-torch.inf, LOWEST])
def test_a_target_that_is_ruled_out_is_infinitely_unlikely_until_it_is_remembered(by):
    head, (hidden, target) = make_head(2, 600, 4), make_stream(2, (30,), 5, 4)
    with torch.no_grad():
        head.bias[:512] = by
    target[:] = 3
    lone = score_stream(head, hidden, target)
    assert (lone == torch.inf).all() if by == -torch.inf else (lone > 1e307).all()
    adapted = MbPA(20, 5).nll(head, hidden, target)
    assert (adapted > 1e307).all()
    mixed = score_stream(head, hidden, target, cache=NeuralCache(20), mbpa=MbPA(20, 5))
    assert mixed[0] > 1e307
    assert mixed[1:].isfinite().all()


def test_all_biases_at_the_lowest_number():
    head, (hidden, target) = make_head(3, 9, 4), make_stream(3, (30,), 9, 4)
    with torch.no_grad():
        head.bias[:] = 0
        expected = [memory.nll(head, hidden, target) for memory in (MbPA(20, 5), MbPA(20, 5, steps=2))]
        head.bias[:] = LOWEST
    for memory, nll in zip((MbPA(20, 5), MbPA(20, 5, steps=2)), expected, strict=True):
        assert_nll(memory.nll(head, hidden, target), nll)


def test_the_class_with_the_largest_bias_is_ruled_out_by_its_row():
    """The log-sum-exp was made from the NLL of that class and its logit, which then are infinite."""
    head, (hidden, _) = make_head(4, 9, 4), make_stream(4, (30,), 9, 4)
    hidden[:, 0] = 5
    with torch.no_grad():
        head.bias[2], head.weight[2, 0] = 50, LOWEST
    expected = F.linear(hidden, head.weight, head.bias).logsumexp(1)
    torch.testing.assert_close(Rows(head, hidden).lse(hidden), expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 10])
def test_scores_of_the_cache_that_overflow_downwards(size):
    """Of opposite activations, as far away as can be: no chance, and no NaN."""
    hidden = torch.full((4, 2), 1e19) * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    found = NeuralCache(size, theta=10.0).nll(hidden, torch.tensor([0, 0, 0, 0]) if size == 1 else torch.arange(4) // 2)
    assert not found.isnan().any()
