"""What the processes of a head tell each other where one of them waits: questions and answers in the group's store."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LOOK = 3.0  # seconds in which the others answer
POLL = 0.05


class Answer(NamedTuple):
    """Where a rank is."""

    begun: int  # exchanges with this group
    moved: int  # collectives that it has begun since the last of them began
    sits: bool  # in a collective, or in a backward pass
    place: str  # in words


class Verdict(NamedTuple):
    """Why the group is at its end: the same words for all ranks."""

    ranks: Sequence[int]  # that are missing
    text: str
    lost: bool  # whether they are gone


class Board:
    """The store as one of the ranks sees it. Every method raises RuntimeError where the store is gone."""

    def __init__(self, store: Any, others: Sequence[int], own: int) -> None:
        self._store, self._others, self._own = store, others, own
        self._next = 0  # question

    def _has(self, name: str) -> bool:
        return bool(self._store.check([f"firstsight/{name}"]))

    def _get(self, name: str) -> Any:
        return json.loads(self._store.get(f"firstsight/{name}"))

    def _set(self, name: str, value: Any = None) -> None:
        self._store.set(f"firstsight/{name}", json.dumps(value))

    def ask(self, ends: Callable[[], object] = bool) -> dict[int, Answer]:
        """Where each of the other ranks is, of those that answer, until ``ends`` or there is a verdict."""
        number = self._next
        while self._has(f"question/{number}"):  # of another rank, and perhaps of a while ago
            number += 1
        self._set(f"question/{number}")
        end = time.monotonic() + LOOK
        while time.monotonic() < end and not ends() and not self._has("verdict"):
            if all(self._has(f"answer/{number}/{rank}") for rank in self._others):
                break
            time.sleep(POLL)
        there = [rank for rank in self._others if self._has(f"answer/{number}/{rank}")]
        return {rank: Answer(*self._get(f"answer/{number}/{rank}")) for rank in there}

    def is_asked(self) -> bool:
        """Whether there is a question that this rank has not answered."""
        return self._has(f"question/{self._next}")

    def answer(self, answer: Answer) -> None:
        """Answer it."""
        self._set(f"answer/{self._next}/{self._own}", answer)
        self._next += 1

    def judge(self, verdict: Verdict) -> None:
        """Tell all ranks."""
        self._set("verdict", verdict)

    def verdict(self) -> Verdict | None:
        """What one of them has told."""
        return Verdict(*self._get("verdict")) if self._has("verdict") else None

    def hear(self) -> None:
        """Tell that this rank knows the verdict."""
        self._set(f"heard/{self._own}")

    def heard(self, ranks: Sequence[int]) -> bool:
        """Whether these do."""
        return all(self._has(f"heard/{rank}") for rank in ranks)
