"""The practitioner's trial: every method on one data set, the choice on its validation part, the judgement on its test.

What is done stays done in ``out``: the same call goes on after any end, and gives the same numbers.
"""

import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.errors import InputError
from firstsight.lab.classify.data.prepared import PLAN, Prepared, prepare
from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.judgement.advice import advise
from firstsight.lab.classify.judgement.choose import choose
from firstsight.lab.classify.judgement.compare import compare
from firstsight.lab.classify.judgement.paste import paste
from firstsight.lab.classify.methods.catalogue import METHODS, REPLAY, WRITE
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.outcome import Outcome, numbers
from firstsight.lab.classify.runs.jobs import Measuring, Trials, best, choosing_jobs, measuring_jobs
from firstsight.lab.classify.runs.plan import PLAN_SHAPE, UNITS_SHAPE, Plan, Units, make_plan, timed
from firstsight.lab.classify.runs.winner import save_winner
from firstsight.lab.classify.settings import BUDGET, Trial
from firstsight.lab.runs.jobs import Job, check_workers, run_all
from firstsight.lab.system.files import naming, read_json, write_json
from firstsight.lab.system.folder import LOCK, TRIAL, hold
from firstsight.lab.system.machine import cores, provenance
from firstsight.lab.system.manifest import DIGESTS
from firstsight.lab.system.progress import say
from firstsight.lab.system.shape import OBJECT, TEXT

COMMONEST, ROWS = 30, 2  # mistakes that are told, and examples of each


class TrialEndedError(InputError):
    """A signal ended the trial before it was done; ``exit_code`` is what a shell expects of it."""


def run_trial(
    source: Source,
    settings: Trial,
    out: str | Path,
    *,
    encoder: str | None = None,
    budget: float = BUDGET,
    workers: int | None = None,
    file: str | Path | None = None,
) -> dict[str, Any]:
    """Try all methods on a data set.

    Args:
        source: vectors or texts with their labels.
        settings: what decides the numbers.
        out: folder of all that is made.
        encoder: of texts; see ``prepare``.
        budget: minutes that it may take; what is left out for it is said and told in ``plan``.
        workers: processes at a time; by default one a core.
        file: where ``source`` was read from, for the lines to paste.

    Returns:
        What ``out/trial.json`` holds: ``data``, ``source``, ``settings``, ``plan``, ``methods``, ``lines``,
        ``choice`` and ``comparison``, both of them again under ``at_once`` for what needs no training when classes
        come, ``advice``, ``paste``, ``confusions``, ``winner``, and where it was made.

    Raises:
        InputError: the data, ``budget`` or ``workers`` are not as expected, or ``out`` holds another trial.
        JobsFailedError: jobs failed; all others were run.
        TrialEndedError: a signal ended it.
    """
    check_workers(workers)
    out = Path(out)
    if not budget > 0:
        raise InputError(f"budget is {budget}; expected minutes above 0.")
    _check_folder(out)
    with hold(out, TRIAL):
        return _run_trial(source, settings, out, encoder, budget, workers, file)


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else, whose report.html or plots would be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: this is a file. Expected a folder for all that a trial writes: give another --out.")
    there = {path.name for path in out.iterdir()} - {LOCK, DIGESTS}
    if (there and not there & {"data", PLAN}) or there & {"config.yaml", "meta.json", "checkpoints", "study.json"}:
        raise InputError(
            f"{out}: this folder holds something else ({', '.join(sorted(there)[:4])}). Give the trial an --out of its "
            "own."
        )


def _run_trial(
    source: Source,
    settings: Trial,
    out: Path,
    encoder: str | None,
    budget: float,
    workers: int | None,
    file: str | Path | None,
) -> dict[str, Any]:
    """``run_trial``, alone in its folder."""
    before = _read_plan(out / PLAN)
    _check(before is None or before.settings == settings.to_dict(), out / PLAN, "settings")
    prepared = prepare(source, settings, out, encoder=encoder)
    task = Task(prepared)
    planned = _planned(before, task, prepared.identity, settings, out / PLAN, budget, workers or cores())
    plan = planned.plan
    say(plan.said())
    trials = Trials(out, prepared.identity, settings, plan, planned.units)
    _run("1 of 2, choosing settings", choosing := choosing_jobs(trials), out, workers)
    _run("2 of 2, measuring what was chosen", measuring := measuring_jobs(trials, best(choosing)), out, workers)
    trial = _judged(prepared, task, settings, plan, measuring, out)
    trial["source"] = {"file": None if file is None else str(file), **source.columns}
    trial["advice"], trial["paste"] = advise(trial), paste(trial)
    write_json(out / "trial.json", trial)
    return trial


def _run(part: str, jobs: Sequence[Job], out: Path, workers: int | None) -> None:
    say(f"part {part}; the times below are of this part")
    ended = run_all(jobs, out / "jobs", workers=workers)
    if ended:
        error = TrialEndedError(f"{ended}: the trial ended before it was done. The same command goes on in {out}.")
        error.exit_code = 128 + signal.Signals[ended]
        raise error


@dataclass(frozen=True)
class _Planned:
    """What ``plan.json`` holds: a plan, what it is for, and what was timed for it."""

    identity: str
    settings: dict[str, Any]
    plan: Plan
    units: Units

    def to_dict(self) -> dict[str, Any]:
        own = {"identity": self.identity, "settings": self.settings}
        return {**own, "plan": self.plan.to_dict(), "units": asdict(self.units)}


def _read_plan(path: Path) -> _Planned | None:
    if not path.exists():
        return None
    mend = "Delete it, or give another --out."
    shape = {"identity": TEXT, "settings": OBJECT, "plan": PLAN_SHAPE, "units": UNITS_SHAPE}
    found = read_json(path, "the plan of a trial", shape, mend)
    with naming(path, "the plan of a trial", mend):
        plan, units = Plan.from_dict(found["plan"]), Units(**found["units"])
    return _Planned(found["identity"], found["settings"], plan, units)


def _planned(
    before: _Planned | None, task: Task, identity: str, settings: Trial, path: Path, budget: float, workers: int
) -> _Planned:
    """The plan that was made before, or one made now: timings differ from run to run, and what is run must not."""
    if before is not None:
        _check(before.identity == identity, path, "data")
        if before.plan.budget != budget:
            say(f"{path}: planned for {before.plan.budget:g} minutes, and kept; another --out plans anew.")
        return before
    units = timed(task, settings)
    made = _Planned(identity, settings.to_dict(), make_plan(units, settings, budget, workers), units)
    write_json(path, made.to_dict())
    return made


def _check(same: bool, path: Path, what: str) -> None:
    if not same:
        raise InputError(f"{path}: this folder holds a trial of other {what}. Give this one an --out of its own.")


def _judged(
    prepared: Prepared,
    task: Task,
    settings: Trial,
    plan: Plan,
    jobs: Sequence[Measuring],
    out: Path,
) -> dict[str, Any]:
    """All numbers, the choice, the comparison, and what follows."""
    counts, right = task.counts.numpy(), {name: _right(task, name) for name in ("valid", "test")}
    outcomes, lines = list[Outcome](), list[dict[str, Any]]()
    for job in jobs:
        own, about = job.outcomes(), job.about() or {}
        outcomes += own
        told = {"rate": job.setting, "seconds_train": about["seconds"]}
        lines += [numbers(one, *right[one.part], counts, settings.new_share) | told for one in own]
    compared, sides = _compared(lines, outcomes, right, counts, settings)
    at_once, _ = _compared([line for line in lines if line["arrival"] != REPLAY], outcomes, right, counts, settings)
    trial: dict[str, Any] = {
        "data": prepared.found,
        "settings": settings.to_dict(),
        "plan": plan.to_dict() | {"said": plan.said()},
        "methods": _methods(jobs),
        "lines": lines,
        **compared,
        "at_once": at_once,
        "confusions": confusions(sides["ours"][0], prepared),
    }
    trial["taken"] = taken = _taken(trial)
    won = trial["choice"][taken]
    way = WRITE if taken == "ours" else won["arrival"]  # what partial_fit does, with the setting that suits it
    best_job = next(job for job in jobs if job.method.name == won["method"] and way in job.ways)
    trial["winner"] = save_winner(best_job, prepared, task, out / "winner")
    return trial | provenance()


def _taken(trial: Mapping[str, Any]) -> str:
    """Whose lines are pasted: who is better, or where no difference was found who was ahead on the validation part."""
    verdict: str = trial["comparison"]["verdict"]
    if verdict != "none":
        return verdict
    means = {}
    for side in ("ours", "rival"):
        wanted = {name: trial["choice"][side][name] for name in ("method", "arrival")}
        wanted |= {"part": "valid", "shots": trial["choice"]["shots"]}
        own = [line["mixed"] for line in trial["lines"] if all(line[name] == wanted[name] for name in wanted)]
        means[side] = float(np.mean(own))
    return "rival" if means["rival"] > means["ours"] else "ours"


def _compared(
    lines: Sequence[dict[str, Any]],
    outcomes: Sequence[Outcome],
    right: Mapping[str, tuple[np.ndarray, np.ndarray]],
    counts: np.ndarray,
    settings: Trial,
) -> tuple[dict[str, Any], dict[str, list[Outcome]]]:
    """``choice`` by these lines, its ``comparison``, and the outcomes that were compared."""
    choice: dict[str, Any] = {**choose(lines, {m.name for m in METHODS.values() if m.ours}, settings.shots)}
    sides = {side: _chosen(outcomes, one["method"], one["arrival"], settings.shots) for side, one in choice.items()}
    choice |= {"shots": settings.shots, "new_share": settings.new_share}
    found = compare(sides["ours"], sides["rival"], *right["test"], counts, settings.new_share, seed=settings.seed)
    return {"choice": choice, "comparison": found}, sides


def _right(task: Task, name: str) -> tuple[np.ndarray, np.ndarray]:
    part = task.part(name)
    return part.old_y.numpy(), part.new_y.numpy()


def _chosen(outcomes: Sequence[Outcome], method: str, arrival: str, shots: int) -> list[Outcome]:
    """Its outcomes on the test part, seed by seed; one of a method that no seed changes."""
    wanted = (method, arrival, shots, "test")
    return [one for one in outcomes if (one.method, one.arrival, one.shots, one.part) == wanted]


def _methods(jobs: Sequence[Measuring]) -> list[dict[str, Any]]:
    """What each method is, with which settings, and what its training took: the mean over seeds."""
    abouts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rates: dict[str, dict[str, float | None]] = defaultdict(dict)
    for job in jobs:
        abouts[job.method.name].append(job.about() or {})
        rates[job.method.name] |= dict.fromkeys(job.ways, job.setting)
    return [
        {
            "name": name,
            "title": METHODS[name].title,
            "ours": METHODS[name].ours,
            "rates": rates[name],
            "setting": METHODS[name].setting,
            "converged": None if own[0]["converged"] is None else all(about["converged"] for about in own),
            "seconds_train": float(np.mean([about["seconds"] for about in own])),
        }
        for name, own in abouts.items()
    ]


def confusions(outcome: Outcome, prepared: Prepared) -> list[dict[str, Any]]:
    """The commonest mistakes on the test part: ``true``, ``answered`` (labels), ``count``, and up to two ``rows``."""
    split = prepared.split
    names, rows = [*split.classes, *split.new_test], np.concatenate([split.test, split.asked_test])
    right = np.concatenate([split.y_of(split.test), split.y_of(split.asked_test)])
    answers = np.concatenate([outcome.old_answer, outcome.new_answer])
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, true, answered in zip(rows, right, answers, strict=True):
        if true != answered:
            pairs[int(true), int(answered)].append(int(row))
    commonest = Counter({pair: len(own) for pair, own in pairs.items()}).most_common(COMMONEST)
    return [
        {"true": names[true], "answered": names[answered], "count": count, "rows": pairs[true, answered][:ROWS]}
        for (true, answered), count in commonest
    ]
