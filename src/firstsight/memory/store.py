"""What the memories share: the last pairs of each stream, and the checks of what comes in.

Shape suffixes: B streams, N tokens of a call, D features, M pairs held; [...] is [N] or [B, N].
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.functional.tiling.tiles import slices
from firstsight.memory.recalled import Recalled, Window, recalled_of

CHUNK = 8192  # tokens of a stream that are taken in at once: this, not the length of a call, bounds the memory needed


class Store:
    """The last ``size`` rows of a stream, oldest first, in one piece of memory.

    A ring that never wraps: rows are added behind the last one, and when the room, up to three times ``size``, ends,
    those that count move to the front. Any run of consecutive rows is then a view, where a ring would need a copy at
    each look, and a row is moved once on average.
    """

    def __init__(self, size: int) -> None:
        self.size, self.end = size, 0
        self.columns: list[Tensor] = []

    def __len__(self) -> int:
        """How many rows count, ``size`` at most."""
        return min(self.end, self.size)

    def append(self, *rows: Tensor) -> int:
        """Add rows, one tensor a column, each [N, ...]; returns the position of the first in ``columns``.

        The ``size`` rows before them stay where they can be seen, until the next call.
        """
        if not self.columns:
            self.columns = [row.new_empty(0, *row.shape[1:]) for row in rows]
        n, kept = len(rows[0]), len(self)
        if self.end + n > len(self.columns[0]):
            room, last = 2 * kept + n, slice(self.end - kept, self.end)
            # In the room there is, the rows move without an overlap, so those of old count until ``end`` is set.
            fits = len(self.columns[0]) >= room
            moved = self.columns if fits else [c.new_empty(room, *c.shape[1:]) for c in self.columns]
            for new, old in zip(moved, self.columns, strict=True):
                new[:kept] = old[last]
            self.columns, self.end = moved, kept
        for column, row in zip(self.columns, rows, strict=True):
            column[self.end : self.end + n] = row
        self.end += n
        return self.end - n

    def window(self, before: int) -> slice:
        """The rows that a query at position ``before`` of ``columns`` sees."""
        return slice(max(0, before - self.size), before)


class Memory:
    """A memory over one or several streams; ``NeuralCache`` and ``MbPA`` are such.

    One of your own is a subclass with ``read``, and with ``affinity`` and ``shares`` if it is to show what it recalls.
    """

    stored = False
    """whether what it recalls are entries of a store of its own, and not pairs of the text just read"""
    _single = False  # a grid of one setting, whose dimensions are left out

    def __init__(self, size: int, block: int | None) -> None:
        for name, value in (("size", size), ("block", block)):
            if value is not None:
                check_whole(name, value)
        self.size, self.block = size, block
        self._stores: list[Store] = []

    def __len__(self) -> int:
        """Pairs held: of each stream, or of the longest where ignored tokens make them differ."""
        return max((len(store) for store in self._stores), default=0)

    def reset(self) -> None:
        """Forget everything: streams, width, dtype and device may then be others."""
        self._stores = []

    def new_document(self) -> None:
        """A document begins that has nothing to do with what was read: forget that, unless it is of another text."""
        self.reset()

    @abstractmethod
    def read(self, head: Any, hidden: Tensor, target: Tensor, *, score: bool = True) -> Tensor:
        """The NLL of each pair from those before it, which then are remembered too; without ``score`` only remembered.

        Args:
            head: the output layer: anything with ``weight`` [V, D] and ``bias`` [V] or None.
            hidden: [N, D] float, or [B, N, D]: B streams, each with a memory of its own.
            target: [N] or [B, N] int64; -100 stands for no pair: scored 0 and not remembered.

        Returns:
            As ``target`` (behind a dimension for each axis of a grid), in nats; of no meaning without ``score``.
        """

    def recalled(self, query_QD: Tensor, window: Window, top: int) -> Recalled | None:
        """Of each query the pairs that weigh most and the classes they vote for; None: it recalls no single pair.

        What the memory holds is not looked at, so that a passage of a text that was read long ago can be shown; of the
        window it holds the last ``size`` pairs before each query.

        Args:
            query_QD: [Q, D] activations.
            window: the pairs of the text around them, in the queries' dtype.
            top: how many pairs and classes, at most.
        """
        score_QW = self.affinity(query_QD, window.keys_WD)
        if score_QW is None:
            return None
        score_QW = score_QW.masked_fill((window.ago_QW < 1) | (window.ago_QW > self.size), -math.inf)
        return recalled_of(query_QD, window, score_QW, self.shares(score_QW), top)

    def seek(self, position: int) -> None:
        """The next pair is that of this position of the text; of no account but to a memory that counts them."""

    def affinity(self, query_QD: Tensor, keys_WD: Tensor) -> Tensor | None:
        """How near each pair is to each query, [Q, W]: the larger the more weight. None: it recalls no single pair."""
        return None

    def shares(self, score_QW: Tensor) -> Tensor:
        """The share of all weight [Q, W] of pairs with these affinities, the most recent first, -inf of those not held.

        0 where no pair is held.
        """
        return score_QW.softmax(1).nan_to_num(0.0)

    def empty(self, hidden: Tensor) -> Tensor:
        """Which streams of such a call have no pair yet: bool [B], or [] for a single stream [N, D]."""
        stores = self._stores or [Store(1)] * (len(hidden) if hidden.ndim == 3 else 1)
        found = torch.tensor([len(store) == 0 for store in stores], dtype=torch.bool, device=hidden.device)
        return found if hidden.ndim == 3 else found[0]

    def check(self, hidden: Tensor, target: Tensor, num_classes: int | None = None) -> None:
        """Raise InputError unless the memory can take these pairs; it stays as it was."""
        check_pairs(hidden, target, num_classes)
        self._check_known(hidden)

    def _check_known(self, hidden: Tensor) -> None:
        streams = len(hidden) if hidden.ndim == 3 else 1
        if self._stores and len(self._stores) != streams:
            raise InputError(
                f"hidden has {streams} streams, the memory holds {len(self._stores)}. Go on with as many, or call "
                "reset() first."
            )
        columns = next((store.columns for store in self._stores if store.columns), None)
        if columns is None:
            return
        held, given = columns[0], hidden[:0]
        if held.shape[-1] != given.shape[-1]:
            raise InputError(
                f"hidden is {given.shape[-1]} wide, but the memory holds activations of width {held.shape[-1]}: they "
                "are of another model. Give each model a memory of its own, or call reset() first."
            )
        if held.dtype != sum_dtype(given) or held.device != given.device:
            raise InputError(
                f"hidden is {given.dtype} on {given.device}, but the memory holds {held.dtype} on {held.device}. Go "
                "on with the same, or call reset() first."
            )

    def _each(
        self, hidden: Tensor, target: Tensor, score: Callable[[Store, Tensor, Tensor], Tensor], lead: tuple[int, ...]
    ) -> Tensor:
        """``score(store, hidden [N, D], target [N]) -> [*lead, N]`` of each stream's chunks, 0 for ignored tokens."""
        self._stores = self._stores or [Store(self.size) for _ in range(len(hidden) if hidden.ndim == 3 else 1)]
        found = hidden.new_zeros(*lead, *target.shape, dtype=sum_dtype(hidden))
        h_BND, y_BN = (hidden, target) if hidden.ndim == 3 else (hidden[None], target[None])
        for b, store in enumerate(self._stores):
            out_N = found if hidden.ndim == 2 else found[..., b, :]
            place_N = (y_BN[b] != IGNORE_INDEX).nonzero()[:, 0]
            for part in slices(len(place_N), CHUNK):
                at = part if len(place_N) == len(y_BN[b]) else place_N[part]  # a slice spares the copies
                out_N[..., at] = score(store, h_BND[b, at].to(found.dtype), y_BN[b, at])
        return found[(0,) * len(lead)] if self._single else found


def check_pairs(hidden: Tensor, target: Tensor, num_classes: int | None = None) -> None:
    """Raise InputError unless these are pairs of an activation and a label."""
    if hidden.ndim not in (2, 3) or target.shape != hidden.shape[:-1]:
        raise InputError(
            f"hidden is {list(hidden.shape)} and target {list(target.shape)}; expected [N, D] and [N], or "
            "[B, N, D] and [B, N] for B streams side by side."
        )
    if not hidden.is_floating_point() or target.dtype != torch.int64:
        raise InputError(
            f"hidden is {hidden.dtype} and target {target.dtype}; expected floating point and torch.int64."
        )
    if target.device != hidden.device:
        raise InputError(f"hidden is on {hidden.device} and target on {target.device}; expected one device.")
    check_finite(hidden.detach())
    kept = target[target != IGNORE_INDEX]
    if kept.numel() and (int(kept.min()) < 0 or (num_classes is not None and int(kept.max()) >= num_classes)):
        label = int(kept.min()) if int(kept.min()) < 0 else int(kept.max())
        most = "" if num_classes is None else f" to {num_classes - 1}"
        raise InputError(f"target holds the label {label}; expected 0{most}, or {IGNORE_INDEX} for no pair.")


def sum_dtype(hidden: Tensor) -> torch.dtype:
    """What is held and summed in: float32, or float64 for such activations."""
    return torch.promote_types(hidden.dtype, torch.float32)


def check_finite(hidden: Tensor) -> None:
    """Raise InputError if an activation is NaN or infinite."""
    if math.isfinite(hidden.sum()):  # one bad value would show; a sum that overflows is looked at more closely
        return
    finite = torch.isfinite(hidden).all(-1)
    if not bool(finite.all()):
        first = (~finite).nonzero()[0].tolist()
        raise InputError(
            f"hidden has {int((~finite).sum()):,} activations of {finite.numel():,} with NaN or infinity, the first at "
            f"{first}. Has the model diverged, or does it overflow in half precision?"
        )


def check_whole(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is a whole number, 1 or more."""
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value}; expected a whole number, 1 or more.")


def check_rate(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is a finite number, 0 or more."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value}; expected a finite number, 0 or more.")
