"""The cases: which command reads what, damaged how. Each follows from the seed and its number alone."""

import random
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.campaign.beds import Beds
from tests.campaign.mutations import MUTATIONS, kin
from tests.campaign.readings import READINGS, Reading
from tests.campaign.server import call
from tests.campaign.verdict import Expected, State, judge, left_over


@dataclass(frozen=True)
class Result:
    """A case and what became of it."""

    case: int
    command: str
    file: str
    mutation: str
    did: str
    verdict: str
    why: str
    cpu: float
    left: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Cases:
    """The cases of a seed, run one at a time on a worker's beds."""

    def __init__(self, seed: int, beds: Beds, only: str = "*", quick: bool = False) -> None:
        self.seed, self.beds = seed, beds
        self.readings = [reading for reading in READINGS if fnmatch(reading.command, only)]
        if quick:
            self.readings = [reading for reading in self.readings if reading.quick]
        self._expected: dict[int, Expected] = {}

    def run(self, number: int) -> Result:
        """Run a case."""
        rng = random.Random(f"{self.seed}/{number}")
        reading = rng.choices(self.readings, [one.weight for one in self.readings])[0]
        expected = self.expected(reading)
        place = self.beds.lay(reading.bed)
        names, weights = zip(*reading.targets(place), strict=True)
        name = rng.choices(names, weights)[0]
        mutation, did = _damage(rng, place / name, place)
        damaged = State.of(place).files.get(name, b"")
        ended = call(reading.argv, place, self.beds.log)
        after = State.of(place)
        verdict, why = judge(ended, name, reading.is_own(name, mutation), damaged, after, expected)
        left = len(left_over(after)) + ended.orphans
        return Result(
            number, reading.command, f"{reading.bed}: {name}", mutation, did, verdict, why, round(ended.cpu, 3), left
        )

    def expected(self, reading: Reading) -> Expected:
        """What the reading gives of its bed undamaged, from two runs."""
        key = READINGS.index(reading)
        if key not in self._expected:
            self._expected[key], _ = undisturbed(self.beds, reading.bed, reading.argv)
        return self._expected[key]


def undisturbed(beds: Beds, bed: str, argv: tuple[str, ...]) -> tuple[Expected, float]:
    """What a command gives of a whole bed, from two runs, and the seconds of the shorter one."""
    runs, before = [], State({})
    for _ in range(2):
        place = beds.lay(bed)
        before = State.of(place)
        ended = call(argv, place, beds.log)
        if ended.code:
            raise RuntimeError(f"{argv} fails on an undamaged bed: {ended.code}\n{ended.err[-2000:]}")
        runs.append((ended, State.of(place)))
    return Expected.of(before, runs), min(ended.seconds for ended, _ in runs)


def _damage(rng: random.Random, path: Path, place: Path) -> tuple[str, str]:
    """Damage a file in one of the ways that it can be; the way, and what was done."""
    others = kin(path, place)
    while True:
        mutation = rng.choice(list(MUTATIONS))
        before = path.read_bytes()
        did = MUTATIONS[mutation](rng, path, others)
        if did is not None and not (path.is_file() and not path.is_symlink() and path.read_bytes() == before):
            return mutation, did
