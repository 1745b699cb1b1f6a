"""What averaging the buffers of a model does to whole numbers, and how they are kept right.

``AveragedModel(use_buffers=True)`` and Lightning's callbacks on it average a copy's buffers with the model's, cut to
whole numbers: 1 and then 2 with a decay of 0.999 is 1 for ever. A clock beside the counts, a float, tells: of a model
it is whole, of an average it is not. The counts of an average are then those of the model that it was copied from.
"""

import copy
import weakref
from contextlib import suppress
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.heads.head import Head
from firstsight.heads.kept.state import CLOCK, is_averaged, tick

_WHOLE = ("counts", "fresh")  # the buffers of whole numbers


class Kin:
    """The copies of a head, and the head that it is a copy of."""

    def __init__(self, origin: Any = None) -> None:
        self.origin = None if origin is None else weakref.ref(origin)
        self.copies: weakref.WeakSet[Any] = weakref.WeakSet()
        self.truth: dict[str, Tensor] | None = None  # of a head with copies that are averages of it

    def __reduce__(self) -> tuple[type["Kin"], tuple[()]]:
        return Kin, ()


class Averaged(Head):
    """A head whose buffers may be averaged; they lie in ``_keeper``, their names begin with ``_prefix``."""

    _prefix = ""
    _kin: Kin
    _settled: Tensor | None  # the counts that are known to be some

    @property
    def _keeper(self) -> nn.Module:
        """The module whose buffers hold what the write keeps."""
        return self

    def _kept(self, name: str) -> Tensor:
        return cast(Tensor, self._keeper._buffers[self._prefix + name])

    @property
    def counts(self) -> Tensor:
        """[V] int64 buffer: 1 + occurrences."""
        if self._prefix + "counts" not in self._keeper._buffers:
            raise AttributeError("counts")
        with suppress(InputError):  # to look is never refused
            self._check_averaged()
        return self._kept("counts")

    def _note_step(self) -> None:
        """Another step of training was written: the clock goes on; of averages the truth is noted beside them."""
        tick(self._kept("settings"))
        if any(is_averaged(other._kept("settings")) for other in list(self._kin.copies)):
            self._kin.truth = {name: value.clone() for name, value in (self.whole() or {}).items()}

    def _has_stepped(self) -> bool:
        """Whether it has ever been trained and written, in this life or in the one that its state is of."""
        return bool(self._kept("settings")[: len(CLOCK)].any())

    def whole(self) -> dict[str, Tensor] | None:
        """The buffers of whole numbers as they should be; None if they are averages, and it is not known of what."""
        if not is_averaged(self._kept("settings")):
            names = [name for name in _WHOLE if self._prefix + name in self._keeper._buffers]
            return {name: self._kept(name) for name in names}
        origin = None if self._kin.origin is None else self._kin.origin()
        known = self._kin.truth if origin is None else origin.whole()
        return known if known and len(known["counts"]) == len(self.weight) else None

    @torch.no_grad()
    def _check_averaged(self) -> None:
        """Put right what averaging has made of whole numbers."""
        settings = self._kept("settings")
        counts = self._kept("counts")
        trusted = counts is self._settled and not counts.is_meta  # or it may be memory that nobody has filled
        if settings.is_meta or not trusted or not is_averaged(settings):
            return
        if (known := self.whole()) is None:
            raise InputError(
                "this head's counts were averaged with its rows and cut to whole numbers, and the model that they were "
                "averaged from is gone. Average with use_buffers=False (AveragedModel, WeightAveraging of Lightning), "
                "which copies buffers, or save the average while the model lives; or say how well classes are known, "
                'head.set_counts("trained"), and show it data again before new ones come, head.looking().'
            )
        for name, value in known.items():
            self._kept(name).copy_(value)
        settings[: len(CLOCK)] = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        copied._kin = Kin(self)
        self._kin.copies.add(copied)
        return copied
