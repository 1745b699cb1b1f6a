"""Tensors with room behind their last row: a row more is no copy of all, and a row less moves what is behind it alone.

The room is in the memory and not in the tensor: its storage ends with its last row, and lies at the start of a larger
one that it keeps alive. So whatever copies, pickles or saves a tensor (``state_dict``, ``torch.save``, deepcopy,
safetensors, a tied embedding, an optimizer) has V rows and knows nothing of the room; a copy has none.

Shapes: V rows, n of them that come or stay; [...] stands for any dimensions behind the first.
"""

from bisect import bisect_left

import torch
from torch import Tensor
from torch.utils import dlpack

SHARE = 8  # of its rows a tensor that grows gets one in so many as room, and FEWEST at least
FEWEST = 16
BLOCK = 2**20  # numbers that are moved at a time, through a copy of them
_ROOM = "firstsight_room"  # of a storage: the tensor that its memory is the start of


@torch.inference_mode(False)
@torch.no_grad()
def longer(old: Tensor, n: int, start: float) -> Tensor:
    """The rows of ``old`` and n more, filled with ``start``: in its room, or in a new tensor with max(V/8, 16) of it.

    Args:
        old: [V, ...]; to be used no more if there was room, for then both are the same memory.
        n: how many rows more.
        start: the value of all their numbers.

    Returns:
        [V + n, ...]. Each of its numbers was copied a bounded number of times, however often it grows by a row.
    """
    V = len(old)
    room = _taken_room(old)
    if room is None or len(room) < V + n:
        shares = type(old) is Tensor and old.layout == torch.strided and old.device.type in ("cpu", "cuda")
        room = old.new_empty(V + n + (max(V // SHARE, FEWEST) if shares else 0), *old.shape[1:])
        room[:V] = old
    new = room if len(room) == V + n else _start_of(room, V + n)
    new[V:] = start
    return new


@torch.inference_mode(False)
@torch.no_grad()
def shorter(old: Tensor, kept: Tensor) -> Tensor:
    """Some rows of ``old``: those behind the first that goes move up where they are, ``BLOCK`` numbers at a time.

    They are copied, and the memory is given back, where less than half of it would be used; and where another tensor,
    another process or numpy has the same memory, which is left as it is.

    Args:
        old: [V, ...].
        kept: [n] rows, rising, at least one.

    Returns:
        [n, ...]: ``old`` itself, which has n rows now, or a copy.
    """
    n = len(kept)
    room = _room(old)
    if 2 * n < len(old if room is None else room) or not _is_alone(old, room):
        return old[kept]
    at = bisect_left(range(n), True, key=lambda i: int(kept[i]) != i)  # kept rises: before that nothing moves
    for rows in kept[at:].split(max(1, BLOCK * len(old) // old.numel())):  # type: ignore[no-untyped-call]
        old[at : at + len(rows)] = old.index_select(
            0, rows
        )  # which lie behind: nothing is overwritten that is still to be read
        at += len(rows)
    whole = _taken_room(old)
    old.data = _start_of(old.data if whole is None else whole, n)
    return old


def _start_of(whole: Tensor, n: int) -> Tensor:
    """The first n rows as a tensor whose storage ends with them, and which has the rest as its room."""
    start: Tensor = dlpack.from_dlpack(dlpack.to_dlpack(whole[:n]))  # type: ignore[attr-defined]
    setattr(start.untyped_storage(), _ROOM, whole)
    return start


def _room(tensor: Tensor) -> Tensor | None:
    """The memory that a tensor is the start of. What shares or replaces a storage's memory leaves it none."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided:
        return None
    whole: Tensor | None = getattr(tensor.untyped_storage(), _ROOM, None)
    fits = whole is not None and whole.data_ptr() == tensor.data_ptr() and whole.dtype == tensor.dtype
    return whole if fits and whole is not None and whole.shape[1:] == tensor.shape[1:] else None


def _taken_room(tensor: Tensor) -> Tensor | None:
    """``_room``, which the tensor and all that share its storage have no more: two of them would grow into one."""
    if (whole := _room(tensor)) is not None:
        setattr(tensor.untyped_storage(), _ROOM, None)
    return whole


def _is_alone(tensor: Tensor, room: Tensor | None) -> bool:
    """Whether nothing else has this memory, as far as can be told: then rows may move in it, and nobody sees it."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_inference():
        return False
    if tensor.storage_offset() or not tensor.is_contiguous():
        return False
    if room is not None:  # and a storage at its start
        return _holders(tensor) == 1 and _holders(room) == 2
    storage = tensor.untyped_storage()
    foreign = not storage.resizable() or (tensor.device.type == "cpu" and storage.is_shared())
    return not foreign and _holders(tensor) == 1


def _holders(tensor: Tensor) -> int:
    """How many tensors have its storage; 0 where torch does not tell."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    if count is None:
        return 0
    of_one = torch.empty(1)
    own, one = tensor.untyped_storage(), of_one.untyped_storage()
    return int(count(own._cdata)) - int(count(one._cdata)) + 1
