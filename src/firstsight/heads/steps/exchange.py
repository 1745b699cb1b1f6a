"""Class sums of several batches made one: of the micro-batches of a step, and of the processes of a job.

Shapes: U classes that occur in a batch, R ranks, V classes, D features. Nothing here is of size V: what travels is
R headers, and from each rank as many rows as the rank with the most classes has.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from firstsight.heads.steps.agreement import Terms, check_agreed, digest
from firstsight.heads.steps.peers import WRITE, Meeting, meet
from firstsight.heads.steps.place import process

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group: TypeAlias = "ProcessGroup | Literal[False] | None"
# classes [U] int64 in rising order, sums [U, D], occurrences [U] int64; classes below 0 are rows of the second moment
# (rules.with_second_moment)
Sums: TypeAlias = tuple[Tensor, Tensor, Tensor]


def merge(parts: list[Sums]) -> Sums:
    """The class sums of several batches together, added in the order given: the same bits wherever it is done."""
    if len(parts) == 1:
        return parts[0]
    classes_U = torch.unique(torch.cat([classes for classes, _, _ in parts]))
    sums_UD = parts[0][1].new_zeros(len(classes_U), parts[0][1].shape[1])
    occurrences_U = torch.zeros_like(classes_U)
    for classes, sums, occurrences in parts:
        # A part has each class once, so this adds without atomics, whose order would differ from rank to rank.
        at = torch.searchsorted(classes_U, classes)
        sums_UD[at] += sums
        occurrences_U[at] += occurrences
    return classes_U, sums_UD, occurrences_U


def is_shared(group: Group) -> bool:
    """Whether there are other processes to write with."""
    if group is False or not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size(group) > 1


def exchange(own: Sums, skip: bool, group: Group, terms: Terms, step: Tensor) -> Sums:
    """The class sums of all ranks, the same bits on each; empty on all of them if any rank skips its step.

    Collective: every rank of the group must call it at every step, with empty sums if it has nothing. The headers come
    first: they are of one size whatever the heads are, and say whether what follows will be.

    Args:
        own: what this rank has seen.
        skip: whether it skips the step.
        group: of these processes.
        terms: what all ranks have to have alike.
        step: [] int64, which step of the head this is; where the sums are.

    Raises:
        InputError: (a ``ValueError``) on every rank, terms or steps differ; on those that wait, a rank is past this
            exchange, or gone (:class:`peers.RankLostError`).
    """
    classes_U, sums_UD, occurrences_U = own
    sizes, skips, meeting = agree(len(classes_U), skip, group, terms, step)
    most = 0 if any(skips) else max(sizes)
    if not most:
        return classes_U[:0], sums_UD[:0], occurrences_U[:0]
    assert group is not False
    padding = (0, 0, 0, most - len(classes_U))
    labels = gather(F.pad(torch.stack([classes_U, occurrences_U], 1), padding), group, meeting)
    sums = gather(F.pad(sums_UD, padding), group, meeting)
    ranks = zip(labels, sums, sizes, strict=True)
    return merge([(label_U2[:n, 0].contiguous(), sum_UD[:n], label_U2[:n, 1]) for label_U2, sum_UD, n in ranks])


def agree(
    size: int, skip: int, group: Group, terms: Terms, step: Tensor, what: str = WRITE
) -> tuple[Sequence[int], Sequence[int], Meeting | None]:
    """Begin an exchange: each rank's size, what else it tells, and what its collectives are waited for with.

    Arguments and errors as ``exchange``; ``what``: it is, for the words of a rank that waits.
    """
    assert group is not False
    meeting = meet(group, step.device)
    moved = 0 if meeting is None else meeting.begin(int(step), what)
    header = torch.tensor([size, skip, digest(terms), *process(), moved], device=step.device)
    headers = torch.stack(gather(torch.cat([header, step[None]]), group, meeting)).tolist()
    sizes, skips, digests, pids, places, moves, steps = zip(*headers, strict=True)
    if meeting is not None:
        meeting.met(list(zip(pids, places, strict=True)), moves)
    check_agreed(terms, digests, steps, group)
    return sizes, skips, meeting


def introduce(group: Group, weight: Tensor) -> None:
    """Let others that will wait for this process hear where it is, though it never writes with them."""
    group = None if group is False else group
    if is_shared(group):
        meet(group, weight.device)


def gather(tensor: Tensor, group: "ProcessGroup | None", meeting: Meeting | None) -> list[Tensor]:
    """What each rank has, in the order of the ranks; of one shape on all."""
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    work = dist.all_gather(gathered, tensor.contiguous(), group=group, async_op=meeting is not None)
    if meeting is not None:
        meeting.wait(work)
    return gathered
