"""The jobs of a trial: each setting of each method once, then each method with its best setting, seed by seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.classify.methods.catalogue import METHODS, Method
from firstsight.lab.classify.outcome import Outcome, load_about, load_outcomes
from firstsight.lab.classify.runs.plan import Plan, Units
from firstsight.lab.classify.settings import Trial
from firstsight.lab.runs.jobs import Ended, Job
from firstsight.lab.system.files import read_json

LAYER, CHOICE, OUTCOMES = "layer.pt", "choice.json", "outcomes.npz"


@dataclass(frozen=True)
class Trials:
    """What all jobs of a trial share."""

    out: Path
    identity: str
    settings: Trial
    plan: Plan
    units: Units

    def common(self, method: Method, setting: float, seed: int) -> dict[str, Any]:
        """What decides a job's numbers: kept with them, and compared before they are used."""
        return {
            "identity": self.identity,
            "settings": self.settings.to_dict(),
            "epochs": self.plan.epochs,
            "arrivals": list(self.plan.arrivals(method)),
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
        """``softmax, rate 0.03``; ``means``, of which there is but one."""
        return self.method.name if self.method.one else f"{self.method.name}, {self.method.setting} {self.setting:g}"

    @property
    def work(self) -> float:
        """Seconds, as planned."""
        return self.of.units.choosing(self.of.plan, self.method, self.of.settings)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides its numbers."""
        return self.of.common(self.method, self.setting, self.of.settings.seed)

    def told(self) -> Mapping[str, Any]:
        """See ``work.choose``."""
        return {"folder": str(self.folder), "data": str(self.of.out / "data"), "asked": self.asked}

    def result(self) -> dict[str, Any] | None:
        """What it left: ``score`` (mean share right of the stated mix), ``arrival``, ``seconds``, ``converged``."""
        path = self.folder / CHOICE
        if not path.exists():
            return None
        found = read_json(path, "how well a setting did")
        _check(path, found.get("asked"), self.asked)
        return dict(found)

    def ended(self) -> Ended | None:
        """See ``Job``."""
        found = self.result()
        if found is None:
            return None
        note = "" if found["converged"] is not False else ", not converged"
        return Ended(f"{100 * found['score']:.1f}% right on validation ({found['arrival']}){note}")


@dataclass(frozen=True)
class Measuring(Job):
    """A method with its best setting and one seed: all arrivals on both parts. Leaves all that was answered."""

    of: Trials
    method: Method
    chosen: Choosing
    seed: int
    does = "firstsight.lab.classify.runs.work:measure"

    @property
    def folder(self) -> Path:  # type: ignore[override]
        """``OUT/outcomes/METHOD/seed-0``."""
        return self.of.out / "outcomes" / self.method.name / f"seed-{self.seed}"

    @property
    def title(self) -> str:
        """``softmax, seed 0``."""
        return f"{self.method.name}, seed {self.seed}"

    @property
    def work(self) -> float:
        """Seconds, as planned."""
        first = self.seed == self.of.settings.seed
        return self.of.units.measuring(self.of.plan, self.method, self.of.settings, first)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides its numbers."""
        return self.of.common(self.method, self.chosen.setting, self.seed)

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


def best(jobs: list[Choosing]) -> dict[str, Choosing]:
    """Of each method the setting that did best on the validation part; of equals the first that was tried."""
    found: dict[str, tuple[float, Choosing]] = {}
    for job in jobs:
        result = job.result()
        assert result is not None, job.title
        if job.method.name not in found or result["score"] > found[job.method.name][0]:
            found[job.method.name] = result["score"], job
    return {name: job for name, (_, job) in found.items()}


def measuring_jobs(of: Trials, chosen: Mapping[str, Choosing]) -> list[Measuring]:
    """Seed by seed; what no seed changes once."""
    return [
        Measuring(of, job.method, job, of.settings.seed + number)
        for number in range(of.plan.seeds)
        for job in chosen.values()
        if job.method.trained or number == 0
    ]


def _check(path: Path, was: Any, now: Mapping[str, Any]) -> None:
    if was == now:
        return
    was = was if isinstance(was, dict) else {}
    changed = [name for name in now if was.get(name) != now[name]]
    raise InputError(
        f"{path}: these are results of another trial ({', '.join(changed)} differ). Give this one a folder of its own "
        "with --out, or delete that one."
    )
