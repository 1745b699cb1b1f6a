"""What the processes of a head have to have alike to write together, and what is said where they do not."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

import torch.distributed as dist

from firstsight.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Terms: TypeAlias = Mapping[str, Hashable]


def digest(terms: Terms) -> int:
    """What stands for the terms in a header: 63 bits."""
    return _digest(tuple(terms.items()))


@lru_cache(maxsize=64)  # the same at every step of a head
def _digest(items: tuple[tuple[str, Hashable], ...]) -> int:
    return int.from_bytes(blake2b(repr(items).encode(), digest_size=8).digest()) >> 1


def check_agreed(terms: Terms, digests: Sequence[int], steps: Sequence[int], group: "ProcessGroup | None") -> None:
    """Raise InputError on every rank, unless all have the same terms and are at the same step.

    A collective where the terms differ, which all ranks find out from the same headers.
    """
    if digests.count(digests[0]) == len(digests) and steps.count(steps[0]) == len(steps):
        return
    ranks = dist.get_process_group_ranks(group)
    of_all: list[Any] = [terms] * len(ranks)
    if digests.count(digests[0]) != len(digests):
        dist.all_gather_object(of_all, dict(terms), group=group)
    of_all = [{**theirs, "step": step} for theirs, step in zip(of_all, steps, strict=True)]
    differing = []
    for name in of_all[0]:
        if all(name in theirs for theirs in of_all):  # a rule may have settings that another has not
            values: dict[Any, list[int]] = {}
            for rank, theirs in zip(ranks, of_all, strict=True):
                values.setdefault(theirs[name], []).append(rank)
            if len(values) > 1:
                differing.append(f"{name} is " + ", ".join(f"{value} on {named(of)}" for value, of in values.items()))
    raise InputError(
        f"the heads of the processes differ: {'; '.join(differing)}. This layer was not written. Make the head with "
        "the same settings on every rank, load the same state there, and step as often; or attach with group=False "
        "where each process trains a head of its own."
    )


def named(ranks: Iterable[int]) -> str:
    """Ranks in words."""
    *some, last = map(str, ranks)
    return f"ranks {', '.join(some)} and {last}" if some else f"rank {last}"
