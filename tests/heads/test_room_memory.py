"""What room costs: removal moves blocks, memory is given back, and growth has one tensor twice."""

import weakref

import pytest
import torch
from stepped_head import trained
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from firstsight import HebbianSoftmax
from firstsight.heads.steps import room


class Moved(TorchDispatchMode):
    """The rows written, of tensors of that width, and the most that was made at a time."""

    written = largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if isinstance(out, torch.Tensor) and out.shape[1:] == (64,):
            self.written += len(out) if name == "copy_" else 0
            self.largest = max(self.largest, len(out) if name in ("index", "index_select", "empty", "new_empty") else 0)
        return out


def tensors(head, optimizer):
    return head.weight, head.weight.grad, optimizer.state[head.weight]["sum"]


@pytest.mark.parametrize(("gone", "moved"), [([999], 0), ([990], 9), ([990, 2], 996), ([500, 998], 498)])
def test_removal_moves_what_is_behind_in_blocks_and_nothing_else(gone, moved, monkeypatch):
    monkeypatch.setattr(room, "BLOCK", 64 * 100)
    head, optimizer = trained(1000)
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    with Moved() as traffic:
        head.remove_classes(gone)
    assert traffic.written == 3 * moved
    assert traffic.largest <= 100
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places


def test_memory_is_given_back_when_less_than_half_is_used():
    head, optimizer = trained(1000)
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    head.remove_classes(range(0, 1000, 2))
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places
    whole = [weakref.ref(one.untyped_storage().firstsight_room.untyped_storage()) for one in tensors(head, optimizer)]
    assert all(one().nbytes() == 4 * 64 * 1000 for one in whole)
    head.remove_classes([7])
    assert all(one() is None for one in whole)


def test_rows_that_go_make_room_for_those_that_come():
    head, optimizer = trained(1000)
    head.remove_classes([3, 5])
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    head.add_classes(2)
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places
    head.add_classes(1)
    assert [one.data_ptr() for one in tensors(head, optimizer)] != places


class Alive(TorchDispatchMode):
    """The memory that new tensors have at once, each counted as long as anything holds it."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.places = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if function.overloadpacket.__name__ in ("new_empty", "empty", "index") and isinstance(one, torch.Tensor):
                size = one.untyped_storage().nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(one.untyped_storage(), self.drop, size)
        return out

    def drop(self, size):
        self.now -= size


def test_at_its_peak_growth_has_one_tensor_twice():
    head = HebbianSoftmax(64, 1000, record=True)
    optimizer = torch.optim.Adam(head.parameters(), amsgrad=True)
    head.attach(optimizer)
    head.loss(torch.randn(2, 64), torch.tensor([0, 1])).backward()
    optimizer.step()
    head.add_classes(1)  # from here on all is new memory that is seen
    with Alive() as alive:
        head.add_classes(300)  # all anew
        first = alive.now
        head.add_classes(300)
    rows = 1301 + 300 + 1301 // 8
    of_row = 4 * 6 * 64  # weight, gradient, three of the optimizer, what is written
    assert first > 1301 * of_row
    assert alive.now < rows * (of_row + 64)
    # Of the first round nothing is left, and in the second one tensor was there twice.
    assert alive.peak <= alive.now + 4 * 64 * rows
