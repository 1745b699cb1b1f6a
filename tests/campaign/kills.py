"""Commands that are ended at any moment: the same command again gives the same, and nothing is left of the first."""

import random
import signal
import time
from typing import Any

from tests.campaign.beds import Beds
from tests.campaign.cases import undisturbed
from tests.campaign.lines import LINES, Line
from tests.campaign.server import Command, call, wait_for_orphans
from tests.campaign.verdict import Expected, State, difference, last_line, left_over, raised

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 15.0  # seconds for what a killed command had started, to save and end


class Kills:
    """The kills of a seed; each follows from its number, but for where exactly the signal comes."""

    def __init__(self, seed: int, beds: Beds) -> None:
        self.seed, self.beds = seed, beds
        self._expected: dict[tuple[str, ...], tuple[Expected, float]] = {}

    def run(self, number: int) -> dict[str, Any]:
        """A kill, or two, and the command again."""
        rng = random.Random(f"{self.seed}/kill/{number}")
        line, numbers = LINES[list(LINES)[number % len(LINES)]], rng.choices(SIGNALS, k=rng.choice([1, 1, 2]))
        expected, seconds = self.expected(line)
        place = self.beds.lay(line.bed)
        told = {"number": number, "command": line.command, "signals": [one.name for one in numbers]}
        for one in numbers:
            command = Command(line.again(place), place, self.beds.log)
            time.sleep(rng.uniform(0, seconds))
            command.signal(one)
            ended = command.wait()
            orphans = ended.orphans
            if ended.hang or "Traceback" in ended.err:
                return told | {"verdict": "hangs" if ended.hang else "tracebacks", "why": raised(ended.err)}
            if orphans := wait_for_orphans(patience=PATIENCE) + orphans:
                return told | {"verdict": "orphans", "why": f"{orphans} processes"}
        return told | self.once_more(line, place, expected)

    def once_more(self, line: Line, place: Any, expected: Expected) -> dict[str, Any]:
        """Run the command again, and compare."""
        ended = call(line.again(place), place, self.beds.log)
        after = State.of(place)
        if ended.hang or "Traceback" in ended.err:
            return {"verdict": "hangs" if ended.hang else "tracebacks", "why": raised(ended.err)}
        if ended.code:
            return {"verdict": "refused", "why": last_line(ended.err)}
        if left := left_over(after):
            return {"verdict": "left", "why": ", ".join(left)}
        other = difference(ended, "", b"", after, expected)
        return {"verdict": "silent" if other else "same", "why": other}

    def expected(self, line: Line) -> tuple[Expected, float]:
        """What it gives undisturbed, and in how many seconds."""
        if line.argv not in self._expected:
            self._expected[line.argv] = undisturbed(self.beds, line.bed, line.argv)
        return self._expected[line.argv]


class Holders(Kills):
    """Whoever holds a folder is killed; the next command comes at once, takes over and finishes."""

    def run(self, number: int) -> dict[str, Any]:
        """A kill, and at once the command again."""
        rng = random.Random(f"{self.seed}/holder/{number}")
        alone = [line for line in LINES.values() if not line.jobs]
        line = alone[number % len(alone)]
        expected, seconds = self.expected(line)
        place = self.beds.lay(line.bed)
        command = Command(line.argv, place, self.beds.log)
        time.sleep(rng.uniform(0.3, 0.9) * seconds)
        command.signal(signal.SIGKILL)
        while command.poll() is None:
            time.sleep(0.001)
        told = {"number": number, "command": line.command, "signals": ["SIGKILL"]}
        return told | self.once_more(line, place, expected)
