"""An index of rows: exact where it looks everywhere, and honest where it does not."""

import math

import pytest
import torch

from firstsight import HebbianSoftmax, InputError, Softmax
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lists": 0}, "lists is 0"),
        ({"probes": 0}, "probes 0; expected 1 to 60 lists"),
        ({"hidden": torch.randn(3, 4)}, r"hidden is \[3, 4\]; expected \[N, 9\]"),
        ({"hidden": torch.randn(0, 9)}, "one activation or more"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(InputError, match=said):
        RowIndex(layer(60), **{"hidden": torch.randn(3, 9), "k": 3, **options})
    index = RowIndex(layer(60), torch.randn(3, 9), k=3)
    with pytest.raises(InputError, match="k is 61, hidden"):
        index.topk(torch.randn(3, 9), 61)
    with torch.no_grad():
        index.head.weight[3, 4] = math.inf
    with pytest.raises(InputError, match="rows that are not finite"):
        RowIndex(index.head, torch.randn(3, 9), k=3)
