"""Curricula of several settings and seeds, each a folder of its own, trained side by side.

What is done stays done: the same call goes on after any end, and with more seeds or steps it adds what is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstsight.errors import InputError
from firstsight.lab.curriculum.convnet import ConvNet
from firstsight.lab.curriculum.draws import image_facts
from firstsight.lab.curriculum.loop import MAY_CHANGE, check_checkpoint
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.data.omniglot import open_omniglot
from firstsight.lab.data.pool import cores
from firstsight.lab.runs.checkpoint import load_checkpoint
from firstsight.lab.studies.jobs import Settled, Task, alone, run_tasks
from firstsight.lab.system.files import read_json
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.progress import duration, say

Result = dict[str, Any]
"""What ``run_curriculum`` returns."""

_KEYS = {"settings": dict, "images": dict, "steps": int, "classes": int, "reason": str, "steps_to": dict}
_KEYS |= {"binding": dict, "final": dict, "seconds": dict, "records": list}

Results = dict[str, dict[int, Result]]
"""By variant and seed."""


@dataclass(frozen=True)
class Job:
    """One curriculum; ``settings`` have their seed."""

    variant: str
    settings: Curriculum
    folder: Path

    @property
    def title(self) -> str:
        """``relu-adam-0.006-softmax seed 0``."""
        return f"{self.variant} seed {self.settings.seed}"


def run_curricula(
    data: Path, variants: Mapping[str, Curriculum], seeds: Sequence[int], out: Path, workers: int | None = None
) -> tuple[Results, str]:
    """Run what is left of variants x seeds, one core each: ``out/VARIANT/seed-N``.

    Seed by seed, so that whole comparisons come first. SIGINT and SIGTERM end all runs with a checkpoint; a second
    SIGINT ends them at once.

    Args:
        data: folder that ``firstsight data omniglot`` made.
        variants: settings by name; their own seed says nothing.
        seeds: of each variant.
        out: folder of all runs.
        workers: runs at a time; by default one a core.

    Returns:
        The results of the runs that have ended, and the name of the signal that ended this, or "".

    Raises:
        InputError: ``seeds`` are none or not different, ``workers`` is below 1, the data folder is no Omniglot, has too
            few classes for the settings or images too small for the network, a folder holds a run of other settings,
            images or more steps, ended or not, or another process is at work in ``out``.
        TasksFailedError: runs failed; all others were run.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {list(seeds)}; expected one or more, each another.")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more runs at a time.")
    images = open_omniglot(data).images
    for settings in variants.values():
        settings.num_classes(len(images))
        with torch.device("meta"):
            ConvNet(images.shape[2], settings.network)
    jobs, facts = make_jobs(variants, seeds, out), image_facts(images)
    with alone(out, "another firstsight omniglot or firstsight figure") as lock, ending_signals() as received:
        waiting = {job.title: job for job in jobs if not is_done(job, facts)}
        begun = {job.title for job in waiting.values() if _has_begun(job, facts)}

        def settle(task: Task) -> Settled | None:
            job = waiting[task.title]
            try:
                result = ended(job, facts)
                return _told(result, task.title in begun) if result else None
            except InputError as error:  # the other runs are to go on
                say(str(error))
                return None

        run_tasks(
            [_task(job, data) for job in waiting.values()],
            settle,
            total=len(jobs),
            workers=workers or cores(),
            lock=lock,
            received=received,
        )
    return read_results(jobs, facts), received[0] if received else ""


def make_jobs(variants: Mapping[str, Curriculum], seeds: Sequence[int], out: Path) -> list[Job]:
    """All runs, seed by seed."""
    return [
        Job(name, settings.replace(seed=seed), out / name / f"seed-{seed}")
        for seed in seeds
        for name, settings in variants.items()
    ]


def read_results(jobs: Sequence[Job], facts: Mapping[str, Any]) -> Results:
    """The results of the runs that have ended."""
    results: Results = {job.variant: {} for job in jobs}
    for job in jobs:
        if result := ended(job, facts):
            results[job.variant][job.settings.seed] = result
    return results


def finished(data: Path, variants: Mapping[str, Curriculum], seeds: Sequence[int], out: Path) -> Results:
    """What ``run_curricula`` has brought so far."""
    return read_results(make_jobs(variants, seeds, out), image_facts(open_omniglot(data).images))


def _has_begun(job: Job, facts: dict[str, Any]) -> bool:
    """Whether there is a checkpoint to go on from; one of another run is refused before anything is trained."""
    path = job.folder / "checkpoint.pt"
    if not path.exists():
        return False
    try:
        state = load_checkpoint(path)
    except InputError:  # damaged: its own run says so, and stops no other
        return True
    check_checkpoint(state, job.settings, facts, path)
    return True


def read_result(job: Job, facts: Mapping[str, Any]) -> Result:
    """The run's ``result.json``.

    Raises:
        InputError: it is missing, damaged, or of other settings or images than the job's.
    """
    path = job.folder / "result.json"
    result: Any = read_json(path, "the result of a curriculum")
    sound = isinstance(result, dict) and all(isinstance(result.get(key), kind) for key, kind in _KEYS.items())
    if not sound or not isinstance(result["settings"].get("network"), dict):
        raise InputError(f"{path}: this is not the result of a curriculum. Delete it, or give another folder.")
    saved = Curriculum.from_dict(result["settings"], str(path))
    what = saved.changes(job.settings, MAY_CHANGE)
    if result["steps"] > job.settings.max_steps:
        what = f"it has run for {result['steps']} steps, more than the {job.settings.max_steps} that are wanted"
    if result["images"] != dict(facts):
        what = "it was trained on other images"
    if what:
        raise InputError(f"{path} is of another run: {what}. Give another folder, or what it was run with.")
    found: Result = result
    return found


def ended(job: Job, facts: Mapping[str, Any]) -> Result | None:
    """The run's result, if it has ended: at the step that is wanted, or for good.

    Raises:
        InputError: see ``read_result``.
    """
    if not (job.folder / "result.json").exists():
        return None
    result = read_result(job, facts)
    done = result["reason"] in ("classes", "diverged") or result["steps"] >= job.settings.max_steps
    return result if done else None


def is_done(job: Job, facts: Mapping[str, Any]) -> bool:
    """Whether the run has ended, see ``ended``."""
    return ended(job, facts) is not None


def _task(job: Job, data: Path) -> Task:
    told = {"data": str(data), "settings": job.settings.to_dict(), "folder": str(job.folder)}
    return Task(job.title, job.folder, "firstsight.lab.studies.curriculum_worker", told, job.settings.max_steps)


def _told(result: Result, resumed: bool) -> Settled:
    seconds = sum(result["seconds"].values())
    text = f"{result['classes']} classes in {result['steps']} steps, {duration(seconds)}"
    return Settled(
        f"{text}, diverged" if result["reason"] == "diverged" else text,
        whole=result["reason"] == "steps" and not resumed,
    )
