"""What a memory recalls: pairs in their order, classes by the weight they have together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight import MbPA, NeuralCache
from firstsight.memory.recalled import Window, votes
from firstsight.memory.store import Memory

weights = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5]), min_size=0, max_size=9)


@given(weights, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_votes_equal_a_loop(shares, top, random):
    labels = [random.randrange(4) for _ in shares]
    sums = {label: sum(s for s, own in zip(shares, labels, strict=True) if own == label) for label in set(labels)}
    want = sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:top]
    classes, found = votes(torch.tensor(labels, dtype=torch.int64), torch.tensor([shares]), top)
    assert list(zip(classes[0].tolist(), found[0].tolist(), strict=True)) == want
    each, same = votes(torch.tensor([labels], dtype=torch.int64), torch.tensor([shares]), top)
    assert torch.equal(each, classes)
    assert torch.equal(same, found)


@pytest.mark.parametrize("memory", [NeuralCache(3, 0.5), MbPA(3, 2)])
def test_only_what_is_held_is_recalled(memory):
    h = torch.arange(12.0).reshape(6, 2).double()
    ago = torch.tensor([[1, 2, 3, 4, 5, 6], [-2, -1, 0, 1, 2, 3], [-9, -8, -7, -6, -5, 0]])
    found = memory.recalled(h[:3], Window(h, torch.arange(6), ago), 4)
    held = [[place for place, share in zip(*row, strict=True) if share] for row in pairs(found)]
    most = 3 if isinstance(memory, NeuralCache) else 2
    assert [len(places) for places in held] == [most, most, 0]
    assert [set(places) <= {1, 2, 3} for places in held] == [True, True, True]
    assert found.share_QK.sum(1).tolist() == pytest.approx([1, 1, 0])
    assert found.vote_QG.sum(1).tolist() == pytest.approx([1, 1, 0])
    for query, row in zip(h, range(2), strict=False):
        for label, distance, share in zip(
            found.label_QK[row], found.distance_QK[row], found.share_QK[row], strict=True
        ):
            assert not share or float(distance) == pytest.approx(math.dist(query.tolist(), h[label].tolist()))


def pairs(found):
    return zip(found.place_QK.tolist(), found.share_QK.tolist(), strict=True)


@pytest.mark.parametrize("memory", [NeuralCache(), MbPA()])
def test_a_window_of_no_pairs(memory):
    none = Window(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.empty(3, 0, dtype=torch.int64))
    found = memory.recalled(torch.ones(3, 2), none, 3)
    assert {tuple(part.shape) for part in found} == {(3, 0)}


def test_a_memory_that_knows_no_affinity_recalls_nothing():
    class Mute(Memory):
        def read(self, head, hidden, target, *, score=True):
            return target

    none = Window(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.empty(3, 0, dtype=torch.int64))
    assert Mute(3, None).recalled(torch.ones(3, 2), none, 3) is None
