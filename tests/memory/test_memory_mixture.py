"""The mixture of model, cache and MbPA against probabilities worked out token by token.

B streams, N tokens, V classes, D features.
"""

import copy
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_reference import (
    KINDS,
    SHAPES,
    PlainCache,
    PlainMbPA,
    assert_nll,
    double,
    make_head,
    make_stream,
    model_nll,
    no_graph,
    pieces,
    plain_mix,
    seeds,
)

import firstsight
from firstsight import HebbianSoftmax, MbPA, NeuralCache, Softmax, score_stream
from firstsight.memory import mix

INF = torch.inf


def decimal_mix(nll, parts):
    """-log of the mixture, of probabilities as small as e^-100000."""
    with localcontext(prec=40):
        p = (1 - sum(Decimal(w) for _, w in parts)) * (-Decimal(nll)).exp()
        for value, w in parts:
            p += Decimal(w) * (-Decimal(value)).exp()  # exp(-inf) is 0 here too
        return float(-p.ln()) if p > 0 else INF


values = st.one_of(st.floats(0, 20), st.floats(0, 1e5))
weights = st.sampled_from([0.0, 0.04, 0.1, 0.25, 0.5])


@settings(max_examples=200, deadline=None)
@given(nll=values, parts=st.lists(st.tuples(st.one_of(values, st.just(INF)), weights), max_size=2))
def test_mix_equals_decimals(nll, parts):
    mixed = mix(double([nll]), [(double([value]), w) for value, w in parts])
    assert mixed.dtype == torch.float64
    assert mixed.item() == pytest.approx(decimal_mix(nll, parts), rel=1e-12, abs=1e-12)


def test_mix_at_its_ends():
    nll, other = torch.tensor([0.0, 3.0, 700.0]), torch.tensor([INF, 1.0, INF])
    torch.testing.assert_close(mix(nll, []), nll, rtol=0, atol=0)
    torch.testing.assert_close(mix(nll, [(other, 0.0)]), nll, rtol=0, atol=0)
    torch.testing.assert_close(mix(nll, [(other, 1.0)]), other, rtol=0, atol=0)
    torch.testing.assert_close(mix(nll, [(other, 0.5), (other, 0.5)]), other)
    assert mix(nll, [(nll, 0.3), (nll, 0.2)]).dtype == torch.float32
    torch.testing.assert_close(mix(nll, [(nll, 0.3), (nll, 0.2)]), nll)


@settings(max_examples=80, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    v=st.sampled_from([1, 2, 9]),
    d=st.sampled_from([1, 4]),
    bias=st.booleans(),
    kind=st.sampled_from(KINDS),
    layer=st.sampled_from(["linear", "hebbian"]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    cache_weight=st.sampled_from([None, "default", 0.0, 0.3, 0.6]),
    mbpa_weight=st.sampled_from([None, "default", 0.0, 0.2, 0.4]),
    sizes=st.sampled_from([(5, 12), (100, 1), (1, 100)]),
    steps=st.sampled_from([1, 2]),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
def test_stream_equals_the_probabilities(
    seed, shape, v, d, bias, kind, layer, ignored, dtype, cache_weight, mbpa_weight, sizes, steps, cuts
):
    """None stands for no such memory, "default" for a memory without a word on its weight: the paper's."""
    hidden, target = make_stream(seed, shape, v, d, kind, ignored, dtype)
    head = make_head(seed, v, d, bias, dtype, layer)
    parts, given, skip = [], {}, torch.zeros(shape, dtype=torch.bool)
    if cache_weight is not None:
        plain = PlainCache(sizes[0], 0.3)
        weight = 0.1 if cache_weight == "default" else cache_weight
        parts.append((plain.nll(hidden, target), plain.empty, weight))
        given |= {"cache": NeuralCache(sizes[0], block=16)}
        given |= {} if cache_weight == "default" else {"cache_weight": cache_weight}
    if mbpa_weight is not None:
        plain = PlainMbPA(sizes[1], 6, 0.3, 0.5, steps)
        weight = 0.04 if mbpa_weight == "default" else mbpa_weight
        parts.append((plain.nll(head, hidden, target), plain.empty, weight))
        given |= {"mbpa": MbPA(sizes[1], 6, steps=steps, block=16)}
        given |= {} if mbpa_weight == "default" else {"mbpa_weight": mbpa_weight}
        skip = plain.unsure if dtype == torch.float32 else skip
    expected = plain_mix(model_nll(head, hidden, target), parts)
    nll = torch.cat([score_stream(head, h, y, **given) for h, y in pieces(hidden, target, cuts)], -1)
    assert nll.dtype == dtype
    assert_nll(nll, expected, skip=skip)
    assert (nll[target == -100] == 0).all()


@pytest.mark.parametrize("layer", [Softmax, HebbianSoftmax])
def test_weight_zero_and_no_memory_are_the_head(layer):
    hidden, target = make_stream(1, (2, 30), 7, 4, ignored=0.2)
    head = layer(4, 7, dtype=torch.float64)
    expected = head.nll(hidden, target).detach()
    assert_nll(score_stream(head, hidden, target), expected, 1e-12)
    cache, mbpa = NeuralCache(9), MbPA(9, 3)
    nll = score_stream(head, hidden, target, cache=cache, cache_weight=0.0, mbpa=mbpa, mbpa_weight=0.0)
    assert_nll(nll, expected, 1e-12)
    assert len(cache) == len(mbpa) == 9, "a weight of 0 hides a memory, and does not stop it"


def test_a_fresh_memory_leaves_its_weight_to_the_model():
    """Exactly the model's NLL at the first token, after a reset too; and for each memory by itself."""
    hidden, target = make_stream(2, (3, 8), 5, 4)
    head = make_head(2, 5, 4)
    cache, mbpa, model = NeuralCache(), MbPA(k=3), model_nll(head, hidden, target)

    def score(n):
        at = slice(n, n + 1)
        return score_stream(
            head, hidden[:, at], target[:, at], cache=cache, cache_weight=0.5, mbpa=mbpa, mbpa_weight=0.5
        )

    assert_nll(score(0), model[:, :1], 1e-14)
    plain = PlainMbPA(10_000, 3, 0.3, 0.5, 1)
    plain.nll(head, hidden[:, :1], target[:, :1])
    cache.reset()
    half = plain_mix(model[:, 1:2], [(plain.nll(head, hidden[:, 1:2], target[:, 1:2]), plain.empty, 0.5)])
    assert_nll(score(1), half, 1e-12)
    mbpa.reset()
    with_cache = PlainCache(10_000, 0.3)
    with_cache.nll(hidden[:, 1:2], target[:, 1:2])
    half = plain_mix(model[:, 2:3], [(with_cache.nll(hidden[:, 2:3], target[:, 2:3]), with_cache.empty, 0.5)])
    assert_nll(score(2), half, 1e-12)
    cache.reset()
    mbpa.reset()
    assert_nll(score(3), model[:, 3:4], 1e-14)


def test_a_stream_that_starts_late_is_fresh_until_then():
    """The second stream's first tokens do not count: its memory is empty for longer than its neighbour's."""
    hidden, target = make_stream(3, (2, 12), 3, 4)
    target[1, :5] = -100
    head = make_head(3, 3, 4)
    nll = score_stream(head, hidden, target, cache=NeuralCache(4), mbpa=MbPA(4, 2))
    alone = score_stream(head, hidden[1, 5:], target[1, 5:], cache=NeuralCache(4), mbpa=MbPA(4, 2))
    assert_nll(nll[1, 5:], alone, 1e-12)
    assert (nll[1, :5] == 0).all()
    assert_nll(nll[1, 5:6], model_nll(head, hidden[1, 5:6], target[1, 5:6]), 1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(0, 25), cached=st.booleans(), adapted=st.booleans(), steps=st.sampled_from([1, 2]))
def test_probabilities_sum_to_one(seed, n, cached, adapted, steps):
    v = 6
    hidden, target = make_stream(seed, (n + 1,), v, 4)
    head = make_head(seed, v, 4)
    memories = {"cache": NeuralCache(8)} if cached else {}
    memories |= {"mbpa": MbPA(12, 5, steps=steps)} if adapted else {}
    score_stream(head, hidden[:n], target[:n], **memories)
    nll_V = [score_stream(head, hidden[n:], torch.tensor([y]), **copy.deepcopy(memories)) for y in range(v)]
    assert (-torch.cat(nll_V)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_memories_can_be_used_by_turns():
    """What ``score_stream`` remembers is what the memories' own methods would."""
    hidden, target = make_stream(4, (40,), 5, 4)
    head, cache, mbpa = make_head(4, 5, 4), NeuralCache(12), MbPA(12, 4)
    score_stream(head, hidden[:15], target[:15], cache=cache, mbpa=mbpa)
    assert_nll(cache.nll(hidden[15:], target[15:]), NeuralCache(12).nll(hidden, target)[15:], 1e-12)
    assert_nll(mbpa.nll(head, hidden[15:], target[15:]), MbPA(12, 4).nll(head, hidden, target)[15:], 1e-12)


def test_keeps_no_graph():
    hidden, target = make_stream(6, (20,), 5, 4)
    with no_graph():
        nll = score_stream(make_head(6, 5, 4), hidden.requires_grad_(), target, cache=NeuralCache(), mbpa=MbPA())
    assert not nll.requires_grad


def test_half_precision():
    hidden, target = make_stream(5, (2, 30), 6, 5, dtype=torch.bfloat16, scale=0.7)
    head = make_head(5, 6, 5, dtype=torch.float32)
    cache, mbpa = PlainCache(20, 0.3), PlainMbPA(20, 64, 0.3, 0.5, 1)
    parts = [(cache.nll(hidden, target), cache.empty, 0.3), (mbpa.nll(head, hidden, target), mbpa.empty, 0.2)]
    expected = plain_mix(model_nll(head, hidden, target), parts)

    def score(hidden):
        memories = {"cache": NeuralCache(20), "mbpa": MbPA(20, 64)}
        return score_stream(head, hidden, target, **memories, cache_weight=0.3, mbpa_weight=0.2)

    nll = score(hidden)
    assert nll.dtype == torch.float32
    assert_nll(nll, expected, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        for h in (hidden, hidden.float()):
            nll = score(h)
            assert nll.dtype == torch.float32
            assert_nll(nll, expected, 0.1)


def test_is_exported():
    assert {"MbPA", "NeuralCache", "score_stream"} <= set(firstsight.__all__)
    assert firstsight.score_stream is firstsight.memory.score_stream
