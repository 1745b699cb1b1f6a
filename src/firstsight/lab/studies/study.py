"""The jobs of a study: each an ordinary run folder, trained, evaluated and held against the others.

What is done stays done: a recipe with more variants or seeds adds only what is new.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data import open_corpus
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.sights import sight_curve
from firstsight.lab.runs.jobs import Ended, Job, check_workers, run_all
from firstsight.lab.runs.metrics import last_step, read_metrics
from firstsight.lab.runs.result import EVALUATED, MEND
from firstsight.lab.studies.cost import say_cost
from firstsight.lab.studies.recipe import Study, load_study
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.folder import RUN, STUDY, hold
from firstsight.lab.system.machine import cores, provenance
from firstsight.lab.system.progress import readable
from firstsight.lab.system.shape import COUNT, TEXT, WHOLE, Shape

# Of a run that is there already these may differ: they decide nothing about its numbers.
MAY_CHANGE = ("checkpoint_every", "checkpoint_minutes")
OUTCOME = "outcome.json"  # how training ended, written before the evaluation: a diverged run is not tried again

_OUTCOME: Shape = {"reason": TEXT, "tokens?": WHOLE, "seconds?": COUNT}


@dataclass(frozen=True)
class StudyJob(Job):
    """One run of a study; ``folder`` is its run folder."""

    data: str
    regime: str
    variant: str
    seed: int
    config: Config
    source: str
    folder: Path
    split: str
    kind = RUN
    does = "firstsight.lab.studies.work:train_and_evaluate"

    @property
    def title(self) -> str:
        """``wikitext-2 default softmax seed 0``."""
        return f"{self.data} {self.regime} {self.variant} seed {self.seed}"

    @property
    def work(self) -> float:
        """Tokens it trains on if nothing ends it before its last step."""
        return self.config.steps * self.config.batch * self.config.length

    def share(self) -> float:
        """By its last line of metrics."""
        return last_step(self.folder / "metrics.jsonl") / self.config.steps

    def told(self) -> Mapping[str, Any]:
        """See ``work.train_and_evaluate``."""
        about = {"data": self.source, "folder": str(self.folder), "config": self.config.to_dict(), "split": self.split}
        return {**about, "outcome": str(self.folder / OUTCOME)}

    def ended(self) -> Ended | None:
        """Evaluated, or known to diverge."""
        found = record(self)
        if found["state"] == "waiting":
            return None
        text = f"perplexity {readable(found['perplexity'])}" if found["perplexity"] else found["state"]
        return Ended(f"{text}, {found['seconds'] or 0:.0f} s", whole=found["state"] == "done")


def make_jobs(study: Study, out: Path) -> list[StudyJob]:
    """All jobs, seed by seed, so that whole comparisons come first; within a seed data, regime, variant."""
    return [
        StudyJob(data, regime, variant, seed, config.replace(seed=seed), source, folder, study.split)
        for seed in study.seeds
        for data, source in study.data.items()
        for (regime, variant), config in study.settings.items()
        for folder in [out / "runs" / data / regime / variant / str(seed)]
    ]


def check_jobs(jobs: Sequence[StudyJob], wanted: str = "are wanted now") -> None:
    """Refuse, before anything runs, data that is missing and runs with other settings than ``wanted`` or other data."""
    vocabularies = {source: open_corpus(source).vocabulary.hash for source in {job.source for job in jobs}}
    for job in jobs:
        if (job.folder / "config.yaml").exists():
            _check_same(job, wanted)
        if (result := read_result(job)) and result.get("vocabulary_hash") != vocabularies[job.source]:
            raise InputError(
                f"{job.folder} was trained with another vocabulary than {job.source} has now. Delete that run, or give "
                "--out another folder."
            )


def _check_same(job: StudyJob, wanted: str) -> None:
    """Unlike a run that is resumed by hand, one of a study may not change its end: all see equally many tokens."""
    source, saved = load_config(job.folder / "config.yaml")
    now = str(Path(job.source).resolve())
    changes = [saved.changes(job.config, MAY_CHANGE), f"data was {source}, now {now}" if source != now else ""]
    if what := "; ".join(filter(None, changes)):
        raise InputError(
            f"{job.folder} was made with other settings than {wanted}: {what}. Delete that folder, give --out "
            "another, or, in a study, the variant or regime another name."
        )


def read_result(job: StudyJob) -> dict[str, Any] | None:
    """The run's ``result.json`` if it is there and of the study's split."""
    path = job.folder / "result.json"
    result = read_json(path, "the result of an evaluation", EVALUATED, MEND) if path.exists() else None
    return result if result and result["split"] == job.split else None


def read_outcome(job: StudyJob) -> dict[str, Any]:
    """How training ended: an ``Outcome``'s values, or reason "diverged" and a message; empty while it has not."""
    path = job.folder / OUTCOME
    mend = "Delete it, and give the same command again: it goes on."
    return read_json(path, "how training ended", _OUTCOME, mend) if path.exists() else {}


def record(job: StudyJob) -> dict[str, Any]:
    """What ``study.json`` holds of a job; ``sights`` are means over the whole training."""
    result, outcome = read_result(job), read_outcome(job)
    metrics = read_metrics(job.folder / "metrics.jsonl")
    diverged = outcome.get("reason") == "diverged" or (result is not None and result["perplexity"] is None)
    last = metrics[-1] if metrics else {}
    found = result if result and not diverged else {}
    sights = sight_curve(metrics, source=str(job.folder / "metrics.jsonl")) if found else []
    return {
        "data": job.data,
        "regime": job.regime,
        "variant": job.variant,
        "seed": job.seed,
        "state": "diverged" if diverged else "done" if result else "waiting",
        "diverged": diverged,
        "perplexity": found.get("perplexity"),
        "bands": found.get("bands", []),
        "sights": [dict(zip(("seen", "tokens", "nll"), one, strict=True)) for one in sights],
        "tokens": outcome.get("tokens", last.get("tokens")),
        "seconds": outcome.get("seconds", last.get("seconds")),
        "git_commit": found.get("git_commit"),
        "run": str(job.folder),
    }


def run_study(
    path: str | Path,
    out: str | Path,
    workers: int | None = None,
    draw: Callable[[dict[str, Any]], None] = lambda study: None,
) -> dict[str, Any]:
    """Run what is left of a study, and write ``study.json`` after each finished job.

    See ``jobs.run_all`` for how it ends.

    Args:
        path: the recipe, see ``load_study``.
        out: the study's folder.
        workers: jobs at a time; by default one a core.
        draw: called with what ``study.json`` holds whenever it was written.

    Returns:
        What ``study.json`` holds, and ``"interrupted": signal`` if a signal ended it.

    Raises:
        InputError: see ``load_study`` and ``check_jobs``; ``workers`` below 1; another study is at work in ``out``.
        JobsFailedError: jobs failed, in any way but by diverging; all others have been run.
    """
    check_workers(workers)
    recipe, out = load_study(path), Path(out)
    with hold(out, STUDY):
        return _run_study(recipe, path, out, workers, draw)


def _run_study(
    recipe: Study, path: str | Path, out: Path, workers: int | None, draw: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    jobs = make_jobs(recipe, out)
    check_jobs(jobs, f"{path} says now")
    records, made = {job.title: record(job) for job in jobs}, provenance()

    def write() -> dict[str, Any]:
        study = {"recipe": recipe.values, "file": str(path), **made, "jobs": list(records.values())}
        write_json(out / "study.json", study)
        draw(study)
        return study

    def changed(job: Job | None, failed: bool) -> None:
        if isinstance(job, StudyJob):
            records[job.title] = record(job) | ({"state": "failed"} if failed else {})
        write()

    waiting = [job for job in jobs if job.ended() is None]
    left = [(job.source, job.config, last_step(job.folder / "metrics.jsonl")) for job in waiting]
    say_cost(left, workers or cores())
    interrupted = run_all(jobs, out, STUDY, workers=workers, changed=changed)
    return {**write(), **({"interrupted": interrupted} if interrupted else {})}


def list_study(path: str | Path, out: str | Path) -> dict[str, Any]:
    """The jobs that a recipe means, how far they are, and the settings that are not the same in all of them."""
    jobs = make_jobs(load_study(path), Path(out))
    check_jobs(jobs, f"{path} says now")
    first = jobs[0].config.to_dict()
    differ = [name for name in first if any(getattr(job.config, name) != first[name] for job in jobs)]
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for job in jobs:
        settings = {name: getattr(job.config, name) for name in differ if name != "seed"}
        about = {"data": job.data, "regime": job.regime, "variant": job.variant, "settings": settings, "seeds": {}}
        group = groups.setdefault((job.data, job.regime, job.variant), about)
        group["seeds"][job.seed] = record(job)["state"]
    waiting = sum(job.ended() is None for job in jobs)
    return {"jobs": len(jobs), "waiting": waiting, "groups": list(groups.values())}
