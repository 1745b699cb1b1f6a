"""Two commands on one folder at a time: one does its work, the other is refused and told who is at it."""

import fcntl
import random
import time
from pathlib import Path
from typing import Any

from tests.campaign.beds import Beds
from tests.campaign.lines import LINES, Line
from tests.campaign.server import Command, Ended, call
from tests.campaign.verdict import MANIFEST, State, last_line, left_over, meaning, raised, unlasting

REFUSED_WITHIN = 2.0  # seconds
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
    ("adapt", "resume"),
    ("report", "report"),
    ("study", "study"),
    ("curriculum", "curriculum"),
    ("figure", "figure"),
    ("try", "try"),
]


def held(folder: Path) -> bool:
    """Whether somebody holds the folder's lock."""
    try:
        with open(folder / ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Pairs:
    """The pairs of a seed."""

    def __init__(self, seed: int, beds: Beds) -> None:
        self.seed, self.beds = seed, beds
        self._alone: dict[tuple[str, ...], tuple[list[int], dict[str, Any]]] = {}

    def run(self, number: int) -> dict[str, Any]:
        """A pair: in half of the cases at the same moment, else once the first is known to hold the folder."""
        rng = random.Random(f"{self.seed}/pair/{number}")
        names = list(PAIRS[number % len(PAIRS)])
        rng.shuffle(names)
        one, other = (LINES[name] for name in names)
        orders = [self.alone(names[:1]), self.alone(names[1:]), self.alone(names), self.alone(names[::-1])]
        place = self.beds.lay(one.bed)
        first = Command(one.argv, place, self.beds.folder / "log-0")
        if at_once := rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.05))
        else:
            while not held(place / one.folder) and first.poll() is None:
                time.sleep(0.001)
        second = Command(other.argv, place, self.beds.folder / "log-1")
        ended = self._wait(first, second)
        told = {"number": number, "command": " / ".join(line.command for line in (one, other)), "at_once": at_once}
        return told | _judged(ended, (first.pid, second.pid), (one, other), orders, place)

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
