"""Who is missing where the processes of a head write together: a rank that is gone, or that is past it.

A rank that has yet to come may be at work, for minutes: the first to compile, one that evaluates or saves. It is waited
for as long as the group's timeout says. What tells that a rank will not come, and ends the wait, is

- that its connection is closed: the process has ended, or was killed;
- that it has begun another collective of the same group in the place of this one, and sits in that, or in the
  backward pass that it belongs to. All ranks begin their collectives in one order, and torch numbers them.

For the second each process has a thread that looks into the group's store once a second, and answers there for a main
thread that sits in a collective itself. Only who has waited for ``PATIENT`` seconds asks. A rank that left a step out
and is in no collective looks like one that is at work; whoever waits for longer than ``LONG`` says where it is.
"""

import atexit
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from firstsight.errors import InputError, warn
from firstsight.heads.steps.agreement import named
from firstsight.heads.steps.board import POLL, Answer, Board, Verdict
from firstsight.heads.steps.place import exists, process, where

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

PATIENT = 3.0  # seconds of waiting after which is asked who is missing
HEAR = 1.0  # seconds that are left to a rank that is past to say why it will end
LONG = 30.0  # seconds of waiting after which it is said for whom
_TICK, _MOMENT = 1.0, 0.3
# What is waited for, and what each rank has to do for it.
WRITE, LOSS, BACKWARD = "the write", "a loss", "the backward pass of a loss"
_MENDS = {
    WRITE: "Step as often on every rank, optimizer.step() on all of them or on none; one without a batch steps all the "
    "same, and so brings nothing.",
    LOSS: "Each rank has a part of the classes: call its losses, and backward(), as often on every rank and in one "
    "order; one without tokens brings none, hidden [0, D].",
}
_MENDS[BACKWARD] = _MENDS[LOSS]
_DONE = {WRITE: "written", LOSS: "computed", BACKWARD: "computed"}
_NO_TAG = 0x66697273  # of messages that nobody sends


class RankLostError(InputError, RuntimeError):
    """A process that a head is written with is gone: no mistake in the input, so the exit code is 1."""

    exit_code = 1


class Meeting:
    """A process group as one of its processes sees it."""

    def __init__(self, group: "ProcessGroup") -> None:
        self._group = weakref.ref(group)
        self._ranks, self._own = dist.get_process_group_ranks(group), dist.get_rank()
        self._board = Board(group.get_group_store(), [rank for rank in self._ranks if rank != self._own], self._own)
        self._begun = self._mark = self._since = self._step = 0
        self._what = WRITE
        self._trainer = threading.get_ident()
        self._warned = self._heard = False
        self._processes: list[tuple[int, int]] = []  # of each rank, as ``process()``
        self._uneven = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=_serve, args=(weakref.ref(self), self._end), daemon=True)
        self._thread.start()

    def begin(self, step: int, what: str) -> int:
        """Another exchange begins, so many collectives after the last."""
        self._trainer, self._step, self._what = threading.get_ident(), step, what
        number = self._number()
        # in this order, for the thread reads them the other way round
        self._begun, self._since, self._mark = self._begun + 1, number - self._mark, number
        return self._since

    def met(self, processes: list[tuple[int, int]], moves: Sequence[int]) -> None:
        """What the others are, and how many collectives each has begun between this exchange and the last.

        If not as many, they send messages from one to another, which are counted too: then the numbers say nothing.
        """
        self._processes, self._uneven = processes, min(moves) < max(moves)

    def _number(self) -> int:
        """How many collectives this process has begun with the group."""
        group: Any = self._group()
        return int(group._get_sequence_number_for_group())

    def wait(self, work: Any) -> None:
        """Until a collective of an exchange is done.

        Raises:
            InputError: on the ranks that wait, for one that is past it.
            RankLostError: for one that is gone.
        """
        start, patient = time.monotonic(), timedelta(seconds=PATIENT)
        while True:
            try:
                work.wait(patient)
                return
            except RuntimeError as error:
                failed = error if work.is_completed() else None
            if failed is not None:
                with suppress(RuntimeError):  # it may have been done just now
                    work.wait()
                    return
                raise self._parted(self._lost(failed)) from None
            waited = time.monotonic() - start
            if (found := self._look(waited)) is not None:
                raise self._parted(found)
            patient = timedelta(seconds=PATIENT / 3 if waited < LONG else 2 * PATIENT)

    def _parted(self, error: InputError) -> InputError:
        """``error``, with the group's connections closed, which it cannot do without: who waits in it goes on to fail.

        Or the end of this process would wait for its collective, and a rank that is past for this process. gloo closes
        all of a group's connections where somebody will not wait any longer.
        """
        with suppress(RuntimeError):  # a rank that is past has yet to say why it will end
            found = self._board.verdict()
            end = time.monotonic() + HEAR
            while found and not found.lost and not self._board.heard(found.ranks) and time.monotonic() < end:
                time.sleep(POLL)
        other = next(rank for rank in self._ranks if rank != self._own)
        with suppress(RuntimeError):
            work = dist.irecv(torch.empty(1), other, self._group(), _NO_TAG)
            assert work is not None
            work.wait(timedelta(milliseconds=1))
        return error

    def _look(self, waited: float) -> InputError | None:
        """What to raise if somebody that is waited for will not come."""
        with suppress(RuntimeError):  # no store, no answers: the group's timeout is left
            answers = {} if self._board.verdict() else self._board.ask()
            if (known := self._told()) is not None:
                return known
            late = {rank: answer for rank, answer in answers.items() if answer.begun < self._begun}
            past = {rank: answer for rank, answer in late.items() if answer.sits and answer.moved > self._since}
            if past and not self._uneven:
                return self._verdict(
                    list(past),
                    f"{_are(past)} past {self._what} of step {self._step} of this head, where {self._others(past)}: "
                    f"{_places(past)}. {_MENDS[self._what]}",
                    InputError,
                )
            if waited > LONG and late and not self._warned:
                self._warned = True
                warn(
                    f"{waited:.0f} seconds in {self._what} of step {self._step} of a head, where {self._others(late)}: "
                    f"{_places(late)}. If it left out an optimizer.step() it will not come."
                )
        return None

    def _lost(self, error: RuntimeError) -> InputError:
        """What to raise where a collective has failed."""
        gone, answers = [], dict[int, Answer]()
        with suppress(RuntimeError):  # of the store, which rank 0 holds where no launcher does
            if not (gone := self._gone()):
                answers = self._board.ask(ends=self._gone)
            if (known := self._told()) is not None:
                return known
        gone = gone or self._gone()
        others = [rank for rank in self._ranks if rank != self._own]
        absent = gone or [rank for rank in others if answers and rank not in answers]
        late = {rank: answer for rank, answer in answers.items() if answer.begun < self._begun}
        if absent:
            what = f"{named(absent)} {'ended or was killed' if gone else 'left without a word'}"
        elif late and "timed out" in str(error).lower():
            what = f"{named(late)} did not come within the timeout of the group ({_places(late)})"
        else:
            what = f"the processes lost each other ({' '.join(str(error).split())[:200]})"
            absent = others
        return self._verdict(
            absent or list(late),
            f"{what}, and step {self._step} of this head cannot be {_DONE[self._what]}: "
            f"{self._others(absent or late)}. See what "
            "it said last, and start all ranks again, from the last checkpoint. (If it had done its steps: every rank "
            "has to step as often as the others.)",
            RankLostError,
        )

    def _others(self, ranks: Any) -> str:
        waiting = [rank for rank in self._ranks if rank not in ranks]
        return f"{named(waiting)} {'wait' if len(waiting) > 1 else 'waits'} for {'them' if len(ranks) > 1 else 'it'}"

    def _verdict(self, ranks: list[int], text: str, kind: type[InputError]) -> InputError:
        """The error, which all ranks that wait are told in the same words, and those that are waited for too."""
        with suppress(RuntimeError):
            self._board.judge(Verdict(ranks, text, kind is RankLostError))
        return kind(text)

    def _told(self) -> InputError | None:
        """What another rank has raised for this group."""
        found = self._board.verdict()
        return None if found is None else (RankLostError if found.lost else InputError)(found.text)

    def _gone(self) -> list[int]:
        """Ranks on this machine whose process does not exist any more."""
        here = process()[1]
        pairs = zip(self._ranks, self._processes, strict=False)
        return [rank for rank, (pid, place) in pairs if place == here and not exists(pid)]

    def serve(self) -> None:
        """Answer what is asked, and hear what is said of this process. (In a thread of its own.)"""
        while self._board.is_asked():
            answer = self._answer()
            self._board.answer(answer)
            end = time.monotonic() + HEAR
            while answer.sits and not self._heard and time.monotonic() < end:
                if (found := self._board.verdict()) is not None and self._own in found.ranks:
                    self._heard = True
                    _, _, (file, line) = where(self._trainer, self._group())
                    warnings.warn_explicit(found.text, UserWarning, file, line)
                    self._board.hear()
                time.sleep(POLL)

    def _answer(self) -> Answer:
        number = self._number()
        begun, mark = self._begun, self._mark
        sits, place, at = where(self._trainer, self._group())
        time.sleep(_MOMENT)
        stays = (self._number(), *where(self._trainer, self._group())) == (number, sits, place, at)
        return Answer(begun, number - mark, sits and stays, place)

    def leave(self) -> None:
        """End the thread: one that is left when Python ends aborts the process now and then."""
        self._end.set()
        self._thread.join(timeout=2)


def _serve(meeting: "weakref.ref[Meeting]", end: threading.Event) -> None:
    while not end.wait(_TICK):
        if (alive := meeting()) is None:
            return
        try:
            alive.serve()
        except (RuntimeError, AttributeError):  # the group or its store is gone
            return
        del alive  # which must not be what keeps the store


_MEETINGS: "weakref.WeakKeyDictionary[ProcessGroup, Meeting]" = weakref.WeakKeyDictionary()


def meet(group: "ProcessGroup | None", device: torch.device) -> Meeting | None:
    """This process's meeting with a group; its thread begins with the first call. None where it is not by gloo.

    On GPUs it is the device that waits, and NCCL that watches over it.
    """
    whole = dist.group.WORLD if group is None else group
    assert whole is not None
    if device.type != "cpu":
        return None
    if (meeting := _MEETINGS.get(whole)) is None and "cpu:gloo" in dist.get_backend_config(group):
        if not _MEETINGS:
            atexit.register(_leave)
        meeting = _MEETINGS[whole] = Meeting(whole)
    return meeting


def _leave() -> None:
    for meeting in list(_MEETINGS.values()):
        meeting.leave()


def _are(ranks: Any) -> str:
    return f"{named(ranks)} {'are' if len(ranks) > 1 else 'is'}"


def _places(answers: dict[int, Answer]) -> str:
    if len(answers) == 1:
        return f"it is {next(iter(answers.values())).place}"
    return ", ".join(f"rank {rank} is {answer.place}" for rank, answer in answers.items())
