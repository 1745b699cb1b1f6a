"""Searches of a store against a loop over queries and keys in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_reference import KINDS, make_stream
from stores import assert_found, build, in_pieces, plain_search, stored

from firstsight import InputError
from firstsight.memory.datastore.search import Seen, nearest

seeds = st.integers(0, 2**31)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=seeds,
    n=st.sampled_from([1, 2, 15, 33, 120]),
    d=st.sampled_from([1, 3, 8]),
    k=st.sampled_from([1, 2, 9, 200]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float16", "float32", "int8"]),
    queries=st.sampled_from([0, 1, 7]),
    tile=st.sampled_from([16, 32, 4096]),
    margin=st.sampled_from([0, 1, 64]),
    query_dtype=st.sampled_from([torch.float32, torch.float64]),
    gone=st.sampled_from([0.0, 0.3, 1.0]),
    leave_out=st.booleans(),
)
def test_exact(tmp_path_factory, seed, n, d, k, kind, dtype, queries, tile, margin, query_dtype, gone, leave_out):
    hidden, label = make_stream(seed, (n,), 5, d, kind, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, tile, margin=margin)
        store = build(tmp_path_factory.mktemp("store") / "s", hidden, label, dtype=dtype)
        g = torch.Generator().manual_seed(seed)
        own = torch.randint(n, (queries,), generator=g)
        query = hidden[own].to(query_dtype)
        if seed % 2:  # near a key, but not it
            query = query + 0.5 * torch.randn(query.shape, generator=g)
        dead = torch.rand(n, generator=g) < gone
        store.delete(entries=dead.nonzero()[:, 0])
        found = store.search(query, k, exclude=own if leave_out else None)
    assert found[0].shape == found[1].shape == (queries, min(k, n))
    assert len(store) == n - int(dead.sum())
    seen = lambda q, j: not dead[j] and not (leave_out and j == own[q])  # noqa: E731
    assert_found(found, plain_search(stored(store), query, k, seen))


@pytest.mark.parametrize("d", [8, 64])
def test_near_keys_far_from_the_origin(tmp_path, d):
    """Products in float32 cannot tell these apart."""
    g = torch.Generator().manual_seed(d)
    hidden = 30 + 0.01 * torch.randn(90, d, generator=g)[torch.randint(90, (400,), generator=g)]
    label, query = torch.zeros(400, dtype=torch.int64), 30 + 0.01 * torch.randn(40, d, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, 64, 16)
        store = build(tmp_path / "s", hidden, label, dtype="float32", step=90)
        assert_found(store.search(query, 11), plain_search(stored(store), query, 11))


def test_many_keys_in_whatever_order_they_come(tmp_path):
    """Sizes as they are: keys that come nearer and nearer, or go away, pass or fill what the search holds back."""
    g = torch.Generator().manual_seed(0)
    query, label = torch.randn(5, 6, generator=g), torch.zeros(12_000, dtype=torch.int64)
    for name, scale in (("away", torch.linspace(0, 9, 12_000)), ("near", torch.linspace(9, 0, 12_000))):
        hidden = query[0] + scale[:, None] * torch.randn(12_000, 6, generator=g)
        store = build(tmp_path / name, hidden, label, step=5000)
        squared_QK, index_QK = store.search(query, 300)
        distance_QN = torch.cdist(query.double(), stored(store), compute_mode="donot_use_mm_for_euclid_dist")
        expected = distance_QN.square().sort(dim=1, stable=True)
        assert torch.allclose(squared_QK.double(), expected.values[:, :300], rtol=1e-6)
        assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(index_QK, expected.indices[:, :300], strict=True))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=seeds, kind=st.sampled_from(KINDS), first=st.integers(0, 50), tile=st.sampled_from([16, 4096]))
def test_a_query_sees_what_is_before_its_stop(tmp_path_factory, seed, kind, first, tile):
    hidden, label = make_stream(seed, (50,), 5, 3, kind, dtype=torch.float32)
    query, stop = hidden[:8], torch.randint(51, (8,), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, tile)
        store = build(tmp_path_factory.mktemp("store") / "s", hidden, label)
        found = nearest(store.keys, query, 4, Seen(first=first, stop=stop))
    assert_found(found, plain_search(stored(store), query, 4, lambda q, j: first <= j < stop[q]))


def test_what_a_search_refuses(tmp_path):
    hidden, label = make_stream(0, (30,), 5, 3, dtype=torch.float32)
    store = build(tmp_path / "s", hidden, label)
    for query, k, said in [
        (torch.zeros(2, 4), 3, "2, 4.*3"),
        (torch.zeros(3), 3, "3.*Q, 3"),
        (torch.zeros(2, 3).long(), 3, "int64"),
        (torch.full((2, 3), float("nan")), 3, "NaN"),
        (torch.zeros(2, 3), 0, "k is 0"),
    ]:
        with pytest.raises(InputError, match=said):
            store.search(query, k)
    with pytest.raises(InputError, match="no index"):
        store.search(torch.zeros(2, 3), 3, approximate=True)
    for asked, said in [
        ({}, "one of"),
        ({"label": 3, "document": 0}, "one of"),
        ({"document": 5}, "document is 5.*1 documents, numbered 0 to 0"),
        ({"entries": [30]}, "30.*0 to 29"),
        ({"entries": [-1]}, "-1"),
        ({"entries": [0.5]}, "float"),
    ]:
        with pytest.raises(InputError, match=said):
            store.delete(**asked)
    assert len(store) == 30
