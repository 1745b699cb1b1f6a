"""The processes that share the classes of a head, and what goes from one to another.

Shapes: R ranks; n_r things of a rank, M of all together; [...] stands for any dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import InputError
from firstsight.heads.steps.agreement import named
from firstsight.heads.steps.exchange import Group, agree, gather, is_shared
from firstsight.heads.steps.peers import Meeting, meet

REFUSED = -1  # a size: of a rank whose input was refused


class Ranks:
    """A process group, or this process alone. Every method but ``places`` is a collective of it.

    Attributes:
        size: R. rank: of this process. group: as ``attach`` takes it.
    """

    def __init__(self, group: Group = None, place: tuple[int, int] | None = None) -> None:
        shared = is_shared(group)
        here = (dist.get_world_size(group), dist.get_rank(group)) if shared and group is not False else (1, 0)
        self.size, self.rank = here if place is None else place
        self.given, self.group = group, group if shared else False
        self._lost, self._early = here != (self.size, self.rank), group is None and not shared

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A group is of its process: what is unpickled is of the whole job, or of one process as it was.
        return Ranks, (False if self.size == 1 else None, (self.size, self.rank))

    def check(self) -> None:
        """Raise InputError unless this is the process that the head was made in, or one in its place."""
        if self._lost:
            raise InputError(
                f"this head is part {self.rank} of {self.size}, made for as many processes, and this is not one of "
                "them. Make a head here, and load what save_shards() has saved."
            )
        if self._early and is_shared(None):
            raise InputError(
                "this head was made before torch.distributed.init_process_group, and has all classes. Make it after "
                "that, or with group=False for one that this process trains alone."
            )

    def meeting(self, device: torch.device) -> Meeting | None:
        """What its collectives are waited for with."""
        assert self.group is not False
        return meet(self.group, device)

    def begin(self, size: int, told: int, terms: Mapping[str, Any], step: Tensor, what: str) -> tuple[list[int], Any]:
        """Begin a set of collectives: the size that each rank gives, and what it tells beside.

        Raises:
            InputError: terms or steps differ; a rank has given ``REFUSED``.
        """
        self.check()
        if self.size == 1:  # what it refuses it raises itself
            return [size], [told]
        sizes, tells, _ = agree(size, told, self.group, {**terms, "in": what}, step, what)
        if bad := [rank for rank, n in enumerate(sizes) if n == REFUSED]:
            raise InputError(f"{named(bad)} of this head's {self.size} refused what it was given, and said why.")
        return list(sizes), tells

    def sizes(self, n: int, device: torch.device) -> list[int]:
        """What each rank gives."""
        self.check()
        assert self.group is not False
        return torch.stack(gather(torch.tensor(n, device=device), self.group, self.meeting(device))).tolist()

    def gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """What each rank has [n_r, ...], one after the other, [M, ...]."""
        if self.size == 1:
            return x
        assert self.group is not False
        most = max(sizes)
        if not most:
            return x
        parts = gather(padded(x, most), self.group, self.meeting(x.device))
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place; the same bits on each."""
        return self._reduce(x, dist.ReduceOp.SUM)

    def max_(self, x: Tensor) -> Tensor:
        """The largest of all ranks, in place."""
        return self._reduce(x, dist.ReduceOp.MAX)

    def _reduce(self, x: Tensor, how: Any) -> Tensor:
        self.check()
        if self.size == 1:
            return x
        assert self.group is not False
        meeting = self.meeting(x.device)
        work = dist.all_reduce(x, how, group=self.group, async_op=meeting is not None)
        if meeting is not None:
            meeting.wait(work)
        return x

    def sum_of_own(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Of x [M, ...], with a part [n_r, ...] for each rank, the sum over all ranks of the own part."""
        if self.size == 1:
            return x
        assert self.group is not False
        most, meeting = max(sizes), self.meeting(x.device)
        if not most:
            return x
        own = x.new_empty(most, *x.shape[1:])
        parts = [padded(part, most).contiguous() for part in x.split(list(sizes))]  # type: ignore[no-untyped-call]
        work = dist.reduce_scatter(own, parts, group=self.group, async_op=meeting is not None)
        if meeting is not None:
            meeting.wait(work)
        return own[: sizes[self.rank]]

    def send(self, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Of x [n, ...] so many to each rank, in their order; what has come from each [m, ...], and how many."""
        self.check()
        assert self.group is not False
        own = torch.tensor(sizes, device=x.device)
        given = torch.stack(gather(own, self.group, self.meeting(x.device)))[:, self.rank].tolist()
        come = x.new_empty(sum(given), *x.shape[1:])
        dist.all_to_all_single(come, x.contiguous(), given, list(sizes), group=self.group)
        return come, given


def padded(x: Tensor, length: int) -> Tensor:
    """With zeros up to a length in its first dimension."""
    return x if len(x) == length else F.pad(x, (0, 0) * (x.ndim - 1) + (0, length - len(x)))
