"""The memories where their work falls into many pieces: small chunks, tiles, blocks and few candidates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_reference import KINDS, PlainCache, PlainMbPA, assert_nll, blocks, make_head, make_stream, pieces, seeds

from firstsight import MbPA, NeuralCache
from firstsight.memory import cache, mbpa, neighbours, rows, store

chunks = st.sampled_from([1, 7, 8192])


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(60,), (2, 25)]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    size=st.sampled_from([1, 5, 23, 1000]),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    block=blocks,
    chunk=chunks,
    no_shift=st.sampled_from([0, 100]),
)
def test_cache(seed, shape, kind, ignored, dtype, size, cuts, block, chunk, no_shift):
    hidden, target = make_stream(seed, shape, 5, 4, kind, ignored, dtype)
    memory = NeuralCache(size, block=block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK", chunk)
        patch.setattr(cache, "_NO_SHIFT", no_shift)
        patch.setitem(cache._SCORES, "cpu", 1)
        nll = torch.cat([memory.nll(h, y) for h, y in pieces(hidden, target, cuts)], -1)
    assert_nll(nll, PlainCache(size, 0.3).nll(hidden, target))


@settings(max_examples=80, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(50,), (2, 20)]),
    v=st.sampled_from([3, 600]),  # a tile has 256 classes at least
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    size=st.sampled_from([1, 5, 23, 1000]),
    k=st.sampled_from([1, 4, 10]),
    steps=st.sampled_from([1, 2, 3]),
    cuts=st.lists(st.integers(0, 50), max_size=3),
    block=blocks,
    chunk=chunks,
    margin=st.sampled_from([0, 1, 5]),
)
def test_mbpa(seed, shape, v, kind, ignored, dtype, size, k, steps, cuts, block, chunk, margin):
    hidden, target = make_stream(seed, shape, v, 4, kind, ignored, dtype)
    head = make_head(seed, v, 4, dtype=dtype)
    memory, plain = MbPA(size, k, steps=steps, block=block), PlainMbPA(size, k, 0.3, 0.5, steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK", chunk)
        patch.setattr(neighbours, "_MARGIN", margin)
        patch.setattr(mbpa, "_QUERIES", 9)
        for sizes in (neighbours._GATHERED, rows._HELD, mbpa._TILE):
            patch.setitem(sizes, "cpu", 1)
        nll = torch.cat([memory.nll(head, h, y) for h, y in pieces(hidden, target, cuts)], -1)
    expected = plain.nll(head, hidden, target)
    assert_nll(nll, expected, skip=None if dtype == torch.float64 else plain.unsure)


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_near_pairs_far_from_the_origin(k, dtype):
    """Products cannot tell these pairs apart in float32, nor the same key at two places where products differ."""
    g = torch.Generator().manual_seed(k)
    hidden = 4 + 0.02 * torch.randn(90, 32, generator=g, dtype=torch.float64)[torch.randint(90, (170,), generator=g)]
    hidden, target = hidden.to(dtype), torch.randint(9, (170,), generator=g)
    head = make_head(0, 9, 32, dtype=dtype)
    with torch.no_grad():
        head.weight /= 20
    memory, plain = MbPA(160, k, 0.01), PlainMbPA(160, k, 0.01, 0.5, 1)
    nll = memory.nll(head, hidden, target)
    expected = plain.nll(head, hidden, target)
    assert plain.unsure.float().mean() < 0.1
    assert_nll(nll, expected, skip=plain.unsure)


def test_the_state_of_the_rows_is_drawn_on_the_cpu_whatever_the_default_device():
    head, hidden = torch.nn.Linear(3, 5), torch.zeros(1, 3)
    expected = rows.Rows(head, hidden).state()
    torch.set_default_device("meta")
    try:
        found = rows.Rows(head, hidden).state()
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, expected)
