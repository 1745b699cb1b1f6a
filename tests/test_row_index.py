"""An index of rows: exact where it looks everywhere, and honest where it does not."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from firstsight import HebbianAdaptiveSoftmax, HebbianSoftmax, InputError, Softmax, serving
from firstsight.serving import RowIndex


def layer(V=3000, D=9, bias=True, kind=Softmax, **options):
    torch.manual_seed(0)
    head = kind(D, V, bias=bias, **options)
    with torch.no_grad():
        head.weight.copy_(torch.randn(60, D).repeat_interleave(V // 60, 0) + 0.3 * torch.randn(V, D))
        if bias:
            head.bias.normal_()
    return head


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("V", [60, 3000])
def test_in_all_lists_it_is_topk(V, bias):
    head, h = layer(V, bias=bias), torch.randn(5, 2, 9)
    index = RowIndex(head, h.view(-1, 9), k=7, lists=6, probes=6)
    assert index.recall == 1
    found, exact = index.topk(h, 7), head.topk(h, 7)
    assert torch.equal(found.indices, exact.indices)
    torch.testing.assert_close(found.values, exact.values)


def test_in_some_lists_it_says_what_it_finds():
    head, h = layer(), torch.randn(40, 9)
    found = {probes: RowIndex(head, h, lists=50, probes=probes).recall for probes in (1, 4, 50)}
    assert 0.1 < found[1] < found[4] < found[50] == 1
    index = RowIndex(head, h, lists=50, probes=4)
    exact, given = head.topk(h, 10).indices, index.topk(h, 10)
    by_hand = sum(len(set(a) & set(b)) for a, b in zip(exact.tolist(), given.indices.tolist(), strict=True)) / 400
    assert index.recall == pytest.approx(by_hand)
    logits = head(h).detach()
    torch.testing.assert_close(given.values, logits.gather(1, given.indices), msg="what it gives is exact")


def test_where_fewer_are_found_it_is_said():
    index = RowIndex(layer(600), torch.randn(4, 9), k=1, lists=100, probes=1)
    values, classes = index.topk(torch.randn(3, 9), 200)
    assert ((classes == -1) == (values == -math.inf)).all()
    assert (classes == -1).any()


def test_classes_that_came_or_were_written_are_found_after_an_update():
    head = layer(kind=HebbianSoftmax, rule="paper")
    index = RowIndex(head, torch.randn(4, 9), lists=20, probes=20)
    head.add_classes(2)
    with pytest.raises(InputError, match=r"has 3002 classes, and the index 3000: update\(classes\)"):
        index.topk(torch.randn(1, 9), 3)
    h = 5 * torch.nn.functional.normalize(torch.randn(1, 9))
    head.write(h, torch.tensor([3001]))
    index.update([3000, 3001])
    assert int(index.topk(h, 1).indices) == int(head.topk(h, 1).indices) == 3001
    with torch.no_grad():
        head.weight[17] = 3 * h[0]
    index.update([17])
    assert int(index.topk(h, 1).indices) == 17


@pytest.mark.parametrize(("spread", "found"), [(1 / 16, 0.99), (1 / 4, 0.9)])
def test_frequent_classes_with_large_biases_are_found_in_few_lists(spread, found):
    """As in a trained head: biases differ more than products do, and a few classes are in most answers."""
    torch.manual_seed(0)
    head, h = Softmax(16, 20_000), 3 * torch.randn(200, 16)
    with torch.no_grad():
        head.weight.copy_(spread * torch.randn(20_000, 16))
        head.bias.copy_(-1.5 * torch.arange(1, 20_001).log())
    assert RowIndex(head, h, lists=128, probes=4).recall > found


def test_rows_longer_than_all_before_are_found_and_no_row_is_there_twice():
    head, h = layer(), torch.randn(6, 9)
    index = RowIndex(head, h, k=5, lists=30, probes=30)
    with torch.no_grad():
        head.weight[[5, 2999]] *= 40
    index.update([5, 2999])
    index.update([2999])
    head.add_classes(3)
    with torch.no_grad():
        head.weight[3002] = 50.0
    index.update([3002])
    index.update([3002])  # before those in front of it
    with pytest.raises(InputError, match="has 3003 classes, and the index 3001"):
        index.topk(h, 4)
    index.update([3000, 3001])
    for k in (1, 6, 3003):
        assert torch.equal(index.topk(h, k).indices, head.topk(h, k).indices)
    with torch.no_grad():
        head.weight[2999] /= 40  # as all again
    index.update([2999])
    assert torch.equal(index.topk(h, 6).indices, head.topk(h, 6).indices)
    index.update([])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
@pytest.mark.parametrize("outliers", ["none", "a long row", "masks"])
def test_neither_scale_nor_a_few_outliers_matter(scale, outliers):
    head, h = layer(), torch.randn(30, 9)
    with torch.no_grad():
        head.weight *= scale
        head.bias *= scale
        if outliers == "a long row":
            head.weight[7] *= 1e4
        elif outliers == "masks":
            head.bias[:3] = -1e6 * scale
    for times in (1e-10, 1.0, 1e8):
        index = RowIndex(head, h * times, k=5, lists=20, probes=20)
        assert index.recall == 1
        torch.testing.assert_close(index.topk(h * times, 5).values, head.topk(h * times, 5).values)


def test_of_equal_rows_one_is_as_good_as_another():
    head = layer()
    with torch.no_grad():
        head.weight.copy_(head.weight[:100].repeat(30, 1))
        head.bias.copy_(head.bias[:100].repeat(30))
    assert RowIndex(head, torch.randn(20, 9), k=10, lists=20, probes=20).recall == 1


def test_it_notices_that_classes_were_removed_even_if_as_many_came():
    head = layer(kind=HebbianSoftmax, rule="paper")
    index = RowIndex(head, torch.randn(4, 9), lists=20, probes=20)
    head.remove_classes([0])
    head.add_classes(1)
    for ask in (lambda: index.topk(torch.randn(2, 9), 3), lambda: index.update([2999])):
        with pytest.raises(InputError, match="has lost classes since the index was built"):
            ask()


def test_what_is_not_finite_is_refused_and_changes_nothing():
    head, h = layer(), torch.randn(4, 9)
    index = RowIndex(head, h, lists=20, probes=20)
    with pytest.raises(InputError, match="numbers that are not finite"):
        index.topk(torch.tensor([[math.nan] * 9]), 3)
    before = head.weight[7].clone()
    with torch.no_grad():
        head.weight[7] = math.nan
    with pytest.raises(InputError, match="some have rows that are not finite"):
        index.update([3, 7])
    with torch.no_grad():
        head.weight[7] = before
    index.update([3, 7])
    assert index.recall_of(h, 5) == 1


def test_logits_are_exact_under_autocast_and_in_tiles(monkeypatch):
    head, h = layer(), torch.randn(50, 9)
    index = RowIndex(head, h, lists=20, probes=20)
    monkeypatch.setattr(serving, "_NUMBERS", 700)
    with torch.autocast("cpu", torch.bfloat16):
        found = index.topk(h, np.int64(4))
    exact = head.topk(h, 4)
    torch.testing.assert_close(found.values, exact.values)
    assert torch.equal(found.indices, exact.indices)


def test_threads_may_ask_and_update_at_once():
    head, h = layer(), torch.randn(20, 9)
    index = copy.deepcopy(RowIndex(head, h, lists=20, probes=20))
    exact = head.topk(h, 5).indices
    with ThreadPoolExecutor(4) as pool:
        updates = [pool.submit(index.update, range(0, 3000, 7)) for _ in range(10)]
        asked = [pool.submit(lambda: index.topk(h, 5).indices) for _ in range(40)]
    assert not [one.result() for one in updates if one.result()]
    assert all(torch.equal(one.result(), exact) for one in asked)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lists": 0}, "lists is 0"),
        ({"lists": 8.0}, "lists is 8.0"),
        ({"hidden": torch.full((2, 9), math.inf)}, "hidden has numbers that are not finite"),
        ({"probes": 0}, "probes 0; expected 1 to 60 lists"),
        ({"hidden": torch.randn(3, 4)}, r"hidden is \[3, 4\]; expected \[N, 9\]"),
        ({"hidden": torch.randn(0, 9)}, "one activation or more"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(InputError, match=said):
        RowIndex(layer(60), **{"hidden": torch.randn(3, 9), "k": 3, **options})
    index = RowIndex(layer(60), torch.randn(3, 9), k=3)
    for k in (61, 2.5):
        with pytest.raises(InputError, match=f"k is {k}, hidden"):
            index.topk(torch.randn(3, 9), k)
    with pytest.raises(InputError, match="head is a HebbianAdaptiveSoftmax; expected a Softmax"):
        RowIndex(HebbianAdaptiveSoftmax(9, 60, cutoffs=(8,)), torch.randn(3, 9))
    with torch.no_grad():
        index.head.weight[3, 4] = math.inf
    with pytest.raises(InputError, match="rows that are not finite"):
        RowIndex(index.head, torch.randn(3, 9), k=3)
