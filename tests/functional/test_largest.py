"""The k best classes in tiles and groups against torch.topk of all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.functional.tiling import largest
from firstsight.functional.tiling.largest import largest_logits


@pytest.fixture(autouse=True, scope="module")
def _small_tiles():
    held, rows = largest._HELD["cpu"], largest._ROWS
    largest._HELD["cpu"], largest._ROWS = 9_000, 5
    yield
    largest._HELD["cpu"], largest._ROWS = held, rows


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(0, 12),
    V=st.sampled_from([1, 7, 300, 1800, 1801, 3713, 9001]),
    D=st.integers(1, 6),
    part=st.floats(0, 1),
    bias=st.booleans(),
    same=st.booleans(),
)
def test_it_is_topk_of_all_logits(N, V, D, part, bias, same):
    g = torch.Generator().manual_seed(N * V + D)
    k = max(1, round(part * min(V, 40)))
    h, w, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((N, D), (V, D), (V,)))
    if same:  # equal logits: whichever of them, but each once
        w, b = w[:1].expand(V, D).contiguous(), b[:1].expand(V).contiguous()
    found = largest_logits(h.view(N, 1, D), w, b if bias else None, k)
    logits = h @ w.t() + (b if bias else 0)
    assert found.values.shape == found.indices.shape == (N, 1, k)
    torch.testing.assert_close(found.values[:, 0], logits.topk(k).values)
    torch.testing.assert_close(logits.gather(1, found.indices[:, 0]), found.values[:, 0])
    assert all(len(set(row)) == k for row in found.indices[:, 0].tolist())


def test_what_is_not_finite_is_found_as_topk_finds_it():
    h, w = torch.ones(2, 1), torch.zeros(3000, 1)
    w[2500], w[7] = float("nan"), float("inf")
    found = largest_logits(h, w, None, 3)
    assert found.indices[:, :2].tolist() == (h @ w.t()).topk(3).indices[:, :2].tolist() == [[2500, 7]] * 2
