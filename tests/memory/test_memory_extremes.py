"""The memories where numbers, sizes or luck are out of the ordinary."""

import pytest
import torch
from memory_reference import PlainCache, PlainMbPA, assert_nll, make_head, make_stream

from firstsight import InputError, MbPA, NeuralCache, score_stream
from firstsight.memory import mbpa, mix, neighbours
from firstsight.memory.store import Store


@pytest.mark.parametrize("steps", [1, 2])
def test_whole_tiles_of_classes_are_ruled_out(steps, monkeypatch):
    """A reserve of rows without a class yet, each with a bias of -inf."""
    monkeypatch.setitem(mbpa._TILE, "cpu", 1)  # 256 classes a tile
    head, (hidden, target) = make_head(0, 900, 4), make_stream(0, (30,), 200, 4)
    with torch.no_grad():
        head.bias[200:] = -torch.inf
    found = MbPA(20, 5, steps=steps).nll(head, hidden, target)
    small = torch.nn.Linear(4, 200).double()
    small.load_state_dict({"weight": head.weight[:200], "bias": head.bias[:200]})
    assert_nll(found, PlainMbPA(20, 5, 0.3, 0.5, steps).nll(small, hidden, target))


def test_labels_that_are_hashes():
    hidden, target = make_stream(1, (300,), 20, 4)
    names = torch.randint(2**62, (20,), generator=torch.Generator().manual_seed(0))
    found = NeuralCache(50).nll(hidden, names[target])
    assert_nll(found, PlainCache(50, 0.3).nll(hidden, target))


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_few_tokens_a_call_leave_out_what_no_query_needs(chunk):
    """With K far below the window, most pairs' distributions are not made."""
    head, (hidden, target) = make_head(2, 7, 3), make_stream(2, (90,), 7, 3)
    memory = MbPA(40, 3)
    parts = [memory.nll(head, h, y) for h, y in zip(hidden.split(chunk), target.split(chunk), strict=True)]
    assert_nll(torch.cat(parts), PlainMbPA(40, 3, 0.3, 0.5, 1).nll(head, hidden, target))


@pytest.mark.parametrize("make", [NeuralCache, MbPA])
@pytest.mark.parametrize("value", [1e4, 2.5, float("nan"), float("inf"), "9"])
def test_sizes_are_whole_numbers(make, value):
    with pytest.raises(InputError, match=r"size is .*expected a whole number"):
        make(value)
    with pytest.raises(InputError, match=r"k is .*expected a whole number"):
        MbPA(10, value)


def test_a_bias_of_another_length_and_other_tokens():
    head, (hidden, target) = make_head(3, 7, 3), make_stream(3, (9,), 7, 3)
    head.bias = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    with pytest.raises(InputError, match=r"bias is \[8\]; expected \[7\]"):
        MbPA().nll(head, hidden, target)
    with pytest.raises(InputError, match="expected the same tokens in both"):
        mix(torch.ones(3), [(torch.ones(4), 0.1)])


def test_no_streams_at_all():
    head = make_head(4, 7, 3)
    hidden, target = torch.zeros(0, 5, 3, dtype=torch.float64), torch.zeros(0, 5, dtype=torch.int64)
    assert score_stream(head, hidden, target, cache=NeuralCache(), mbpa=MbPA()).shape == (0, 5)


def test_float16_products_would_leave_their_range():
    head, (hidden, target) = make_head(5, 7, 8).float(), make_stream(5, (30,), 7, 8)
    hidden = (200 * hidden).float()
    head.compute_dtype = torch.float16
    assert torch.isfinite(MbPA(20, 5).nll(head, hidden, target)).all()


@pytest.mark.parametrize(("precision", "coarse"), [("highest", False), ("high", True), ("medium", True)])
def test_coarse_products_are_checked_more_widely(precision, coarse):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        assert (neighbours.product_eps(torch.float32) > 1e-4) == coarse
        assert neighbours.product_eps(torch.float64) < 1e-15
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_store_keeps_its_rows_when_memory_runs_out(monkeypatch):
    store = Store(4)
    store.append(torch.arange(6.0)[:, None], torch.arange(6))
    real, calls = torch.Tensor.new_empty, []

    def fails_once(self, *size, **options):
        calls.append(size)
        if len(calls) == 2:
            raise MemoryError
        return real(self, *size, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", fails_once)
    with pytest.raises(MemoryError):
        store.append(torch.ones(99, 1), torch.ones(99, dtype=torch.int64))
    at = store.append(torch.ones(99, 1), torch.ones(99, dtype=torch.int64))
    assert store.columns[0][store.window(at), 0].tolist() == [2, 3, 4, 5]
    assert store.columns[1][store.window(at)].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("n", [1, 3, 8, 50])
def test_the_store_stays_below_three_times_its_size(n):
    store, rows = Store(8), torch.arange(400.0)
    for part in rows.split(n):
        at = store.append(part)
        seen = rows[max(0, int(part[0]) - 8) : int(part[0])]
        assert torch.equal(store.columns[0][store.window(at)], seen)
        assert len(store.columns[0]) <= 2 * 8 + n
