"""The jobs of a trial: each setting of each method once, then each method with its best settings, seed by seed.

The best setting depends on how classes come: rows that imprinting suits are trained less than those that replay starts
from well. So each way has its own, and a method is trained once a seed for each of them that differs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.classify.methods.catalogue import EPOCH, METHODS, Method
from firstsight.lab.classify.outcome import Outcome, load_about, load_outcomes
from firstsight.lab.classify.runs.plan import Plan, Units
from firstsight.lab.classify.settings import Trial
from firstsight.lab.runs.jobs import Ended, Job
from firstsight.lab.system.files import read_json
from firstsight.lab.system.shape import COUNT, NUMBER, OBJECT, TRUTH, Named, check_shape, or_null

LAYER, CHOICE, OUTCOMES = "layer.pt", "choice.json", "outcomes.npz"
_ABOUT = {"asked": OBJECT, "seconds": COUNT, "converged": or_null(TRUTH)}
_CHOICE = {**_ABOUT, "scores": Named(NUMBER)}


@dataclass(frozen=True)
class Trials:
    """What all jobs of a trial share."""

    out: Path
    identity: str
    settings: Trial
    plan: Plan
    units: Units

    def common(self, method: Method, setting: float, seed: int, arrivals: Iterable[str]) -> dict[str, Any]:
        """What decides a job's numbers: kept with them, and compared before they are used."""
        return {
            "identity": self.identity,
            "settings": self.settings.to_dict(),
            "epochs": self.plan.epochs,
            "arrivals": list(arrivals),
            "method": method.name,
            "setting": setting,
            "seed": seed,
        }


@dataclass(frozen=True)
class Choosing(Job):
    """A training on the first seed with one setting; leaves the layer, and how well it does on the validation part."""

    of: Trials
    method: Method
    setting: float
    does = "firstsight.lab.classify.runs.work:choose"

    @property
    def folder(self) -> Path:  # type: ignore[override]
        """``OUT/settings/METHOD/0.03``."""
        return self.of.out / "settings" / self.method.name / f"{self.setting:g}"

    @property
    def title(self) -> str:
        """``linear softmax, rate 0.03``; ``class means``, of which there is but one."""
        name = self.method.title
        return name if self.method.one else f"{name}, {self.method.setting} {self.setting:g}"

    @property
    def work(self) -> float:
        """Seconds, as planned."""
        return self.of.units.choosing(self.of.plan, self.method, self.of.settings)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides its numbers."""
        ways = at_once(self.of.plan.arrivals(self.method))
        return self.of.common(self.method, self.setting, self.of.settings.seed, ways)

    def told(self) -> Mapping[str, Any]:
        """See ``work.choose``."""
        return {"folder": str(self.folder), "data": str(self.of.out / "data"), "asked": self.asked}

    def result(self) -> dict[str, Any] | None:
        """What it left: ``scores`` (share right of the stated mix by arrival), ``seconds``, ``converged``."""
        path = self.folder / CHOICE
        if not path.exists():
            return None
        found = read_choice(path)
        _check(path, found["asked"], self.asked)
        return found

    def ended(self) -> Ended | None:
        """See ``Job``."""
        found = self.result()
        if found is None:
            return None
        note = "" if found["converged"] is not False else ", not converged"
        scores = ", ".join(f"{100 * score:.1f}% with {arrival}" for arrival, score in found["scores"].items())
        return Ended(f"right on validation: {scores}{note}")


@dataclass(frozen=True)
class Measuring(Job):
    """A method with one setting and one seed: the arrivals that it is best for, on both parts. Leaves all answers."""

    of: Trials
    method: Method
    chosen: Choosing
    seed: int
    ways: tuple[str, ...]
    does = "firstsight.lab.classify.runs.work:measure"

    @property
    def folder(self) -> Path:  # type: ignore[override]
        """``OUT/outcomes/METHOD/0.03/seed-0``."""
        return self.of.out / "outcomes" / self.method.name / f"{self.chosen.setting:g}" / f"seed-{self.seed}"

    @property
    def title(self) -> str:
        """``linear softmax, rate 0.03, seed 0``."""
        return f"{self.chosen.title}, seed {self.seed}"

    @property
    def work(self) -> float:
        """Seconds, as planned."""
        first = self.seed == self.of.settings.seed
        return self.of.units.measuring(self.of.plan, self.method, self.of.settings, first, self.ways)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides its numbers."""
        return self.of.common(self.method, self.chosen.setting, self.seed, self.ways)

    def told(self) -> Mapping[str, Any]:
        """See ``work.measure``."""
        told = {"folder": str(self.folder), "data": str(self.of.out / "data"), "asked": self.asked}
        if self.seed == self.of.settings.seed:
            told["trained"] = str(self.chosen.folder)
        return told

    @property
    def setting(self) -> float | None:
        """The best, where there are several."""
        return None if self.method.one else self.chosen.setting

    def about(self) -> dict[str, Any] | None:
        """``seconds`` of the training and ``converged``, once it is done."""
        path = self.folder / OUTCOMES
        if not path.exists():
            return None
        about = load_about(path)
        check_shape(about, _ABOUT, str(path), "Delete it, and run the trial again.")
        _check(path, about.get("asked"), self.asked)
        return about

    def outcomes(self) -> list[Outcome]:
        """All that was answered."""
        return load_outcomes(self.folder / OUTCOMES)

    def ended(self) -> Ended | None:
        """See ``Job``."""
        return None if self.about() is None else Ended("measured")


def choosing_jobs(of: Trials) -> list[Choosing]:
    """The best guess of each method's setting first, so that whole comparisons come first."""
    methods = [METHODS[name] for name in of.plan.methods]
    return [
        Choosing(of, method, method.settings[number])
        for number in range(of.plan.rates)
        for method in methods
        if number < len(method.settings)
    ]


def read_choice(path: Path) -> dict[str, Any]:
    """What ``work.choose`` left: ``scores`` by arrival, ``seconds``, ``converged``, and what was ``asked``."""
    mend = "Delete it, and run the trial again."
    found = read_json(path, "how well a setting did", _CHOICE, mend)
    if list(found["scores"]) != found["asked"].get("arrivals"):
        raise InputError(f"{path}: its scores are not of the arrivals that were asked. {mend}")
    return dict(found)


def at_once(arrivals: Iterable[str]) -> tuple[str, ...]:
    """Those that a setting is chosen for; another epoch begins where the first of them ended."""
    return tuple(name for name in arrivals if name != EPOCH)


def best(jobs: list[Choosing]) -> dict[str, dict[str, Choosing]]:
    """By method and arrival the setting that did best on the validation part; of equals the first that was tried."""
    found: dict[str, dict[str, tuple[float, Choosing]]] = {}
    for job in jobs:
        result = job.result()
        assert result is not None, job.title
        mine = found.setdefault(job.method.name, {})
        for arrival, score in result["scores"].items():
            if arrival not in mine or score > mine[arrival][0]:
                mine[arrival] = score, job
    return {name: {arrival: job for arrival, (_, job) in mine.items()} for name, mine in found.items()}


def measuring_jobs(of: Trials, chosen: Mapping[str, Mapping[str, Choosing]]) -> list[Measuring]:
    """Seed by seed; what no seed changes once."""
    found = []
    for number in range(of.plan.seeds):
        for name, by_arrival in chosen.items():
            method = METHODS[name]
            if not method.trained and number:
                continue
            ways = dict(by_arrival)
            if EPOCH in of.plan.arrivals(method):
                ways[EPOCH] = next(iter(by_arrival.values()))
            for job in {job.setting: job for job in ways.values()}.values():
                own = tuple(arrival for arrival, other in ways.items() if other.setting == job.setting)
                found.append(Measuring(of, method, job, of.settings.seed + number, own))
    return found


def _check(path: Path, was: Any, now: Mapping[str, Any]) -> None:
    if was == now:
        return
    was = was if isinstance(was, dict) else {}
    changed = [name for name in now if was.get(name) != now[name]]
    raise InputError(
        f"{path}: these are results of another trial ({', '.join(changed)} differ). Give this one a folder of its own "
        "with --out, or delete that one."
    )
