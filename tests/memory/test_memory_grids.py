"""Grids of caches and of MbPAs against one memory for each of their points."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_reference import (
    KINDS,
    STEPS,
    PlainCache,
    PlainMbPA,
    assert_nll,
    blocks,
    make_head,
    make_stream,
    pieces,
    seeds,
)

from firstsight import MbPA, NeuralCache
from firstsight.memory import CacheGrid, MbPAGrid


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(45,), (2, 24), (0,)]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    scale=st.sampled_from([1.0, 20.0]),
    cuts=st.lists(st.integers(0, 45), max_size=3),
    block=blocks,
)
def test_cache_grid_equals_its_points(seed, shape, kind, ignored, scale, cuts, block):
    thetas, sizes = [0.3, 0.0, 2.0], [10, 1, 25, 1000]
    hidden, target = make_stream(seed, shape, 5, 4, kind, ignored, scale=scale)
    grid = CacheGrid(thetas, sizes, block=block)
    grid.remember(hidden, target)
    grid.reset()
    assert len(grid) == 0
    nll = torch.cat([grid.nll(h, y) for h, y in pieces(hidden, target, cuts)], dim=-1)
    assert nll.shape == (3, 4, *shape)
    for i, theta in enumerate(thetas):
        for j, size in enumerate(sizes):
            assert_nll(nll[i, j], NeuralCache(size, theta, block=7).nll(hidden, target), 1e-10)
    assert_nll(nll[2, 0], PlainCache(10, 2.0).nll(hidden, target))


def test_cache_grid_remembers_as_it_scores():
    hidden, target = make_stream(8, (40,), 5, 4)
    scored, told = CacheGrid([0.3], [5, 20]), CacheGrid([0.3], [5, 20])
    scored.nll(hidden[:30], target[:30])
    told.remember(hidden[:30], target[:30])
    assert len(scored) == len(told) == 20
    assert torch.equal(scored.nll(hidden[30:], target[30:]), told.nll(hidden[30:], target[30:]))


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(30,), (2, 18), (0,)]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    steps_beta=st.sampled_from(STEPS),
    size=st.sampled_from([1, 12, 1000]),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    block=blocks,
)
def test_mbpa_grid_equals_its_points(seed, shape, kind, ignored, steps_beta, size, cuts, block):
    steps, beta = steps_beta
    ks, lrs = [10, 1, 1024], [0.3, 0.0, 1.0]
    hidden, target = make_stream(seed, shape, 5, 4, kind, ignored)
    head, grid = make_head(seed, 5, 4), MbPAGrid(size, ks, lrs, beta, steps, block=block)
    grid.remember(head, hidden, target)
    grid.reset()
    assert len(grid) == 0
    nll = torch.cat([grid.nll(head, h, y) for h, y in pieces(hidden, target, cuts)], dim=-1)
    assert nll.shape == (3, 3, *shape)
    for i, k in enumerate(ks):
        for j, lr in enumerate(lrs):
            assert_nll(nll[i, j], MbPA(size, k, lr, beta, steps, block=7).nll(head, hidden, target), 1e-10)
    assert_nll(nll[0, 2], PlainMbPA(size, 10, 1.0, beta, steps).nll(head, hidden, target))


def test_mbpa_grid_remembers_as_it_scores():
    hidden, target = make_stream(8, (40,), 5, 4)
    head, scored, told = make_head(8, 5, 4), MbPAGrid(20, [3, 5], [0.3]), MbPAGrid(20, [3, 5], [0.3])
    scored.nll(head, hidden[:30], target[:30])
    told.remember(head, hidden[:30], target[:30])
    assert len(scored) == len(told) == 20
    assert torch.equal(scored.nll(head, hidden[30:], target[30:]), told.nll(head, hidden[30:], target[30:]))
