"""The neural cache against plain loops over tokens and pairs.

B streams, N tokens, V classes, D features.
"""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_reference import KINDS, SHAPES, PlainCache, assert_nll, blocks, make_stream, no_graph, pieces, seeds

from firstsight import NeuralCache


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    v=st.sampled_from([1, 2, 5, 40]),
    d=st.sampled_from([1, 3, 8]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    size=st.sampled_from([1, 2, 7, 16, 30, 10_000]),
    theta=st.sampled_from([0.0, 0.3, 1.0]),
    block=blocks,
)
def test_equals_the_loop(seed, shape, v, d, kind, ignored, dtype, size, theta, block):
    hidden, target = make_stream(seed, shape, v, d, kind, ignored, dtype)
    nll = NeuralCache(size, theta, block=block).nll(hidden, target)
    assert nll.dtype == dtype
    assert_nll(nll, PlainCache(size, theta).nll(hidden, target))


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(60,), (2, 25)]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    size=st.sampled_from([1, 3, 10, 40, 1000]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    scored=st.lists(st.booleans(), min_size=6, max_size=6),
    blocks=st.tuples(blocks, blocks),
)
def test_parts_equal_the_whole(seed, shape, kind, ignored, size, cuts, scored, blocks):
    """Any cut, empty parts and single tokens included; parts that are only remembered count as much; any block."""
    hidden, target = make_stream(seed, shape, 6, 4, kind, ignored)
    whole, parts = NeuralCache(size, block=blocks[0]), NeuralCache(size, block=blocks[1])
    expected, end = whole.nll(hidden, target), 0
    for (h, y), is_scored in zip(pieces(hidden, target, cuts), scored, strict=False):
        start, end = end, end + y.shape[-1]
        if is_scored:
            assert_nll(parts.nll(h, y), expected[..., start:end], 1e-10)
        else:
            assert parts.remember(h, y) is None
    assert len(parts) == len(whole)


def test_many_tokens_one_by_one():
    """The window goes round its ring several times."""
    hidden, target = make_stream(5, (90,), 4, 3)
    cache = NeuralCache(7, 0.5)
    nll = torch.cat([cache.nll(hidden[n : n + 1], target[n : n + 1]) for n in range(90)])
    assert_nll(nll, PlainCache(7, 0.5).nll(hidden, target))
    assert_nll(nll, NeuralCache(7, 0.5).nll(hidden, target), 1e-10)


@pytest.mark.parametrize("size", [1, 300, 10_000])
def test_long_stream_with_the_default_block(size):
    """Past any block: 5,000 tokens, against all scores at once."""
    hidden, target = make_stream(2, (5000,), 50, 6, ignored=0.1)
    nll = NeuralCache(size).nll(hidden, target)
    kept = target != -100
    h_ND, y_N = hidden[kept], target[kept]
    age_NN = torch.arange(len(y_N))[:, None] - torch.arange(len(y_N))
    scores_NN = (0.3 * h_ND @ h_ND.T).masked_fill((age_NN < 1) | (age_NN > size), -torch.inf)
    right_NN = scores_NN.masked_fill(y_N[:, None] != y_N, -torch.inf)
    expected = torch.zeros(5000, dtype=torch.float64)
    expected[kept] = (scores_NN.logsumexp(1) - right_NN.logsumexp(1)).nan_to_num(math.inf, math.inf)
    assert_nll(nll, expected)


def test_streams_are_independent():
    hidden, target = make_stream(3, (4, 33), 5, 3, ignored=0.3)
    together = NeuralCache(10, block=8)
    nll = torch.cat([together.nll(h, y) for h, y in pieces(hidden, target, [4, 5, 21])], dim=1)
    for b in range(4):
        assert_nll(nll[b], NeuralCache(10, block=8).nll(hidden[b], target[b]), 1e-10)


def test_one_stream_in_either_shape():
    hidden, target = make_stream(4, (30,), 5, 3)
    flat, batch = NeuralCache(10), NeuralCache(10)
    for h, y in pieces(hidden, target, [11]):
        assert torch.equal(flat.nll(h, y), batch.nll(h[None], y[None])[0])


def test_only_the_window_counts():
    """Labels tell which pairs are held: theta = 0 makes a cache count them."""
    hidden, target = torch.randn(12, 3), torch.tensor([0, 0, 0, 1, 1, 2, 1, 2, -100, 2, 3, 2])
    nll = NeuralCache(4, theta=0.0, block=5).nll(hidden, target)
    shares = [0, 1, 1, 0, 1 / 4, 0, 2 / 4, 1 / 4, 1, 2 / 4, 0, 2 / 4]
    torch.testing.assert_close((-nll).exp(), torch.tensor(shares))
    assert nll[8] == 0


def test_empty_memory_and_unknown_label_have_no_probability():
    cache, hidden = NeuralCache(), torch.randn(3, 4)
    assert cache.nll(hidden, torch.tensor([0, 1, 1])).isinf().tolist() == [True, True, False]
    assert cache.nll(hidden[:1], torch.tensor([2])).isinf().all()
    cache.reset()
    assert len(cache) == 0
    assert cache.nll(hidden[:1], torch.tensor([0])).isinf().all()


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds, theta=st.sampled_from([0.3, 30.0]), scale=st.sampled_from([10.0, 100.0]), kind=st.sampled_from(KINDS)
)
def test_large_scores_do_not_underflow(seed, theta, scale, kind):
    hidden, target = make_stream(seed, (40,), 4, 5, kind, scale=scale)
    expected = PlainCache(15, theta).nll(hidden, target)
    nll = NeuralCache(15, theta, block=8).nll(hidden, target)
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-6)
    single = NeuralCache(15, theta, block=8).nll(hidden.float(), target)
    assert torch.equal(single.isinf(), expected.isinf())
    assert not single.isnan().any()
    assert (single >= 0).all()


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(0, 30), size=st.sampled_from([1, 5, 100]), theta=st.sampled_from([0.0, 0.3, 5.0]))
def test_probabilities_sum_to_one(seed, n, size, theta):
    v = 6
    hidden, target = make_stream(seed, (n + 1,), v, 4)
    cache = NeuralCache(size, theta)
    cache.remember(hidden[:n], target[:n])
    nll_V = torch.cat([copy.deepcopy(cache).nll(hidden[n:], torch.tensor([y])) for y in range(v)])
    assert (-nll_V).exp().sum().item() == pytest.approx(1.0 if n else 0.0, abs=1e-12)


def test_length_counts_the_pairs_held():
    cache = NeuralCache(10)
    lengths = [len(cache)]
    for n in (4, 0, 3, 2, 1, 1, 25):
        cache.nll(torch.randn(n, 3), torch.zeros(n, dtype=torch.int64))
        lengths.append(len(cache))
    assert lengths == [0, 4, 4, 7, 9, 10, 10, 10]
    cache.reset()
    cache.remember(torch.randn(2, 3, 3), torch.zeros(2, 3, dtype=torch.int64))  # another width, more streams
    assert len(cache) == 3


@pytest.mark.parametrize("how", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_goes_its_own_way(how):
    hidden, target = make_stream(9, (40,), 5, 4)
    expected = NeuralCache(15).nll(hidden, target)
    cache = NeuralCache(15)
    cache.nll(hidden[:20], target[:20])
    other = how(cache)
    other.nll(-hidden[:9], target[:9])
    assert_nll(how(cache).nll(hidden[20:], target[20:]), expected[20:], 1e-12)
    assert_nll(cache.nll(hidden[20:], target[20:]), expected[20:], 1e-12)


def test_keeps_no_graph_and_no_view():
    hidden, target = make_stream(10, (2, 20), 4, 3)
    expected = NeuralCache(15).nll(hidden, target)
    cache, given_h, given_y = NeuralCache(15), hidden.clone().requires_grad_(), target.clone()
    with no_graph():
        first = cache.nll(given_h[:, :12], given_y[:, :12])
    with torch.no_grad():
        given_h[:, :12] = 7  # as a loop that reuses its buffers does
        given_y[:, :12] = 0
    second = cache.nll(given_h[:, 12:], given_y[:, 12:])
    assert_nll(torch.cat([first, second], 1), expected, 1e-12)


def test_arguments_are_left_as_they_are():
    hidden, target = make_stream(10, (2, 20), 4, 3, ignored=0.2)
    before = hidden.clone(), target.clone()
    NeuralCache(5).nll(hidden, target)
    assert torch.equal(hidden, before[0])
    assert torch.equal(target, before[1])


def test_strided_tensors():
    hidden, target = make_stream(11, (20, 3), 4, 6)
    expected = NeuralCache(9).nll(hidden.transpose(0, 1).contiguous()[..., ::2].contiguous(), target.T.contiguous())
    assert_nll(NeuralCache(9).nll(hidden.transpose(0, 1)[..., ::2], target.T), expected, 1e-12)
    assert_nll(NeuralCache(9).nll(hidden[:, 1, ::2], target[:, 1]), expected[1], 1e-12)


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_grad_modes_may_change_between_calls(first):
    hidden, target = make_stream(12, (30,), 4, 3)
    expected = NeuralCache(8).nll(hidden, target)
    cache = NeuralCache(8)
    with first():
        nll = [cache.nll(hidden[:12], target[:12])]
    nll.append(cache.nll(hidden[12:21], target[12:21]))
    with torch.inference_mode():
        nll.append(cache.nll(hidden[21:], target[21:]))
    assert_nll(torch.cat(nll), expected, 1e-12)


def test_half_precision():
    hidden, target = make_stream(13, (60,), 3, 5, dtype=torch.bfloat16)
    expected = PlainCache(20, 0.3).nll(hidden, target)
    nll = NeuralCache(20, block=16).nll(hidden, target)
    assert nll.dtype == torch.float32
    assert_nll(nll, expected, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        nll = NeuralCache(20, block=16).nll(hidden.float(), target)
    assert nll.dtype == torch.float32
    assert_nll(nll, expected, 0.05)
