"""Two commands on one folder at a time: one does its work, the other is refused and told who is at it."""

import random
import signal
import time
from pathlib import Path
from typing import Any

from tests.campaign.beds import Beds
from tests.campaign.lines import LINES, Line
from tests.campaign.server import Command, Ended, call
from tests.campaign.verdict import MANIFEST, State, last_line, left_over, meaning, raised, unlasting

REFUSED_WITHIN = 2.0  # seconds
MOST_IN_TURN = 5  # a pair whose second command never comes while the first is at it
PAIRS = [
    ("train", "train"),
    ("resume", "resume"),
    ("text", "same text"),
    ("same text", "same text"),
    ("wikitext", "wikitext"),
    ("gutenberg", "gutenberg"),
    ("gigaword", "gigaword"),
    ("drawings", "drawings"),
    ("eval", "eval"),
    ("eval", "resume"),
    ("memory", "sweep"),
    ("sweep", "eval"),
    ("report", "resume"),
    ("memory", "resume"),
    ("report", "report"),
    ("store", "store"),
    ("study", "study"),
    ("curriculum", "curriculum"),
    ("figure", "figure"),
    ("try", "try"),
]


def holds(pid: int, folder: Path) -> bool:
    """Whether a process has the folder's lock, and has said so."""
    try:
        return (folder / ".lock").read_text().startswith(f"{pid} ")
    except OSError:
        return False


class Pairs:
    """The pairs of a seed."""

    def __init__(self, seed: int, beds: Beds) -> None:
        self.seed, self.beds = seed, beds
        self._alone: dict[tuple[str, ...], tuple[list[int], dict[str, Any]]] = {}

    def run(self, number: int) -> dict[str, Any]:
        """A pair, until the two of them are at it at the same time; how often they came in turn instead is told."""
        rng = random.Random(f"{self.seed}/pair/{number}")
        names = list(PAIRS[number % len(PAIRS)])
        rng.shuffle(names)
        at_once, in_turn = rng.random() < 0.5, 0
        while True:
            found = self._once(names, rng.uniform(0, 0.01) if at_once else None)
            if found["verdict"] != "in turn" or in_turn == MOST_IN_TURN:
                command = " / ".join(LINES[name].command for name in names)
                return {"number": number, "command": command, "at_once": at_once, "in_turn": in_turn, **found}
            in_turn, at_once = in_turn + 1, at_once and in_turn < 2

    def _once(self, names: list[str], gap: float | None) -> dict[str, Any]:
        """Both, the second after a gap in seconds, or without one while the first holds the folder and is stopped.

        A command that takes a twentieth of a second is done before the second one has looked: the stop sees to it that
        both are at it.
        """
        one, other = (LINES[name] for name in names)
        orders = [self.alone(names[:1]), self.alone(names[1:]), self.alone(names), self.alone(names[::-1])]
        place = self.beds.lay(one.bed)
        first = Command(one.argv, place, self.beds.folder / "log-0")
        if gap is None:
            while not holds(first.pid, place / one.folder) and first.poll() is None:
                time.sleep(0.0002)
            first.signal(signal.SIGSTOP)
        else:
            time.sleep(gap)
        second = Command(other.argv, place, self.beds.folder / "log-1")
        if gap is None:
            second.wait(longest=REFUSED_WITHIN + 3, others=[first.pid])
            first.signal(signal.SIGCONT)
        return _judged(self._wait(first, second), (first.pid, second.pid), (one, other), orders, place)

    @staticmethod
    def _wait(first: Command, second: Command) -> list[Ended]:
        """Both, to the end of each; the seconds are each one's own."""
        ends: dict[int, float] = {}
        while len(ends) < 2 and time.monotonic() - first.began < 60:
            for command in (first, second):
                if command.pid not in ends and command.poll() is not None:
                    ends[command.pid] = time.monotonic() - command.began
            time.sleep(0.002)
        ended = [first.wait(others=[second.pid] if second.poll() is None else []), second.wait()]
        return [
            Ended(one.code, one.out, one.err, ends.get(command.pid, one.seconds), one.hang, one.orphans)
            for one, command in zip(ended, (first, second), strict=True)
        ]

    def alone(self, names: list[str]) -> tuple[list[int], dict[str, Any]]:
        """The exit codes and the files of some commands one after the other."""
        if tuple(names) not in self._alone:
            place = self.beds.lay(LINES[names[0]].bed)
            codes = [call(LINES[name].argv, place, self.beds.log).code for name in names]
            self._alone[tuple(names)] = codes, _lasting(State.of(place))
        return self._alone[tuple(names)]


def _lasting(state: State) -> dict[str, Any]:
    lasting = {name: content for name, content in state.files.items() if not unlasting(name)}
    return {name: meaning(name, content) for name, content in lasting.items() if not name.endswith(MANIFEST)}


def _judged(
    ended: list[Ended], pids: tuple[int, int], lines: tuple[Line, Line], orders: list[Any], place: Path
) -> dict[str, Any]:
    """Whether one of them won, or both in turn, and how the other was refused."""
    codes, after = [one.code for one in ended], State.of(place)
    found = {"codes": codes, "seconds": [round(one.seconds, 2) for one in ended]}
    if any(one.hang for one in ended):
        return found | {"verdict": "hangs", "why": ended[0].hang or ended[1].hang}
    if any("Traceback" in one.err for one in ended):
        return found | {"verdict": "tracebacks", "why": next(raised(e.err) for e in ended if "Traceback" in e.err)}
    if left := left_over(after):
        return found | {"verdict": "left", "why": ", ".join(left)}
    state = _lasting(after)
    one, other, forth, back = orders
    in_turn = [order for order, turned in ((forth, codes), (back, codes[::-1])) if order[0] == turned]
    if any(state == order[1] for order in in_turn) and 2 not in codes:
        return found | {"verdict": "in turn", "why": ""}
    if sorted(codes) != [0, 2]:
        return found | {"verdict": "mixed" if codes == [0, 0] else "both refused", "why": last_line(ended[1].err)}
    loser, alone = (1, one) if codes[0] == 0 else (0, other)
    message = last_line(ended[loser].err)
    if state != alone[1]:
        differing = sorted(name for name in {*state, *alone[1]} if state.get(name) != alone[1].get(name))
        return found | {"verdict": "mixed", "why": ", ".join(differing[:4])}
    if any(state == order[1] for order in in_turn) and str(pids[1 - loser]) not in message:
        return found | {"verdict": "in turn", "why": message}  # the second came when the first was done
    if lines[loser].folder not in message or str(pids[1 - loser]) not in message:
        return found | {"verdict": "unnamed", "why": message}
    late = found["seconds"][loser] > REFUSED_WITHIN
    return found | {"verdict": "late" if late else "one won", "why": message}
