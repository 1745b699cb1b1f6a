"""Curricula of several settings and seeds, each a folder of its own, trained side by side.

What is done stays done: the same call goes on after any end, and with more seeds or steps it adds what is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from firstsight.errors import InputError
from firstsight.lab.curriculum.convnet import ConvNet
from firstsight.lab.curriculum.draws import image_facts
from firstsight.lab.curriculum.loop import MAY_CHANGE, MILESTONES, RECORDS, check_checkpoint, run_curriculum
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.data.omniglot import open_omniglot
from firstsight.lab.runs.checkpoint import load_checkpoint
from firstsight.lab.runs.jobs import Ended, Job, check_workers, run_all
from firstsight.lab.studies.cost import one_thread, say_seconds
from firstsight.lab.system.files import read_json
from firstsight.lab.system.machine import cores
from firstsight.lab.system.progress import duration
from firstsight.lab.system.shape import COUNT, NUMBER, OBJECT, TEXT, TEXT_OR_NULL, WHOLE, Named, Shape, or_null

Result = dict[str, Any]
"""What ``run_curriculum`` returns."""

_STEPS = {str(milestone): or_null(WHOLE) for milestone in MILESTONES}
_FINAL = {"accuracy": NUMBER, "among_themselves": NUMBER, "accuracy_all": NUMBER}
_SHAPE: dict[str, Shape] = {
    "settings": {"network": OBJECT},
    "images": OBJECT,
    "steps": WHOLE,
    "classes": WHOLE,
    "reason": TEXT,
}
_SHAPE |= {"steps_to": _STEPS, "binding": Named(OBJECT), "final": _FINAL, "seconds": Named(COUNT), "records": RECORDS}
_SHAPE |= {"command": TEXT, "git_commit": TEXT_OR_NULL, "machine": TEXT}

Results = dict[str, dict[int, Result]]
"""By variant and seed."""


@dataclass(frozen=True)
class CurriculumJob(Job):
    """One curriculum; ``settings`` have their seed, ``facts`` say which images these are."""

    variant: str
    settings: Curriculum
    folder: Path
    data: Path
    facts: Mapping[str, Any]
    does = "firstsight.lab.studies.work:teach"

    @property
    def title(self) -> str:
        """``relu-adam-0.006-softmax seed 0``."""
        return f"{self.variant} seed {self.settings.seed}"

    @property
    def work(self) -> float:
        """Steps, at most."""
        return self.settings.max_steps

    def told(self) -> Mapping[str, Any]:
        """See ``work.teach``."""
        return {"data": str(self.data), "settings": self.settings.to_dict(), "folder": str(self.folder)}

    @cached_property
    def begun(self) -> bool:
        """Whether there was a checkpoint to go on from when this was first asked, before it ran."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        try:
            state = load_checkpoint(path)
        except InputError:  # damaged: its own run says so, and stops no other
            return True
        check_checkpoint(state, self.settings, dict(self.facts), path)
        return True

    def result(self) -> Result | None:
        """The run's result, if it has ended: at the step that is wanted, or for good."""
        if not (self.folder / "result.json").exists():
            return None
        result = read_result(self)
        done = result["reason"] in ("classes", "diverged") or result["steps"] >= self.settings.max_steps
        return result if done else None

    def ended(self) -> Ended | None:
        """See ``Job``."""
        result = self.result()
        if result is None:
            _ = self.begun  # asked now, while nothing has run
            return None
        seconds = sum(result["seconds"].values())
        text = f"{result['classes']} classes in {result['steps']} steps, {duration(seconds)}"
        text += ", diverged" if result["reason"] == "diverged" else ""
        return Ended(text, whole=result["reason"] == "steps" and not vars(self).get("begun", True))


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
        JobsFailedError: runs failed; all others were run.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {list(seeds)}; expected one or more, each another.")
    images = open_omniglot(data).images
    for settings in variants.values():
        settings.num_classes(len(images))
        with torch.device("meta"):
            ConvNet(images.shape[2], settings.network)
    check_workers(workers)
    jobs = make_jobs(data, variants, seeds, out, image_facts(images))
    waiting = [job for job in jobs if job.ended() is None]
    if waiting and (signal := _say_cost(waiting, images, workers or cores())):
        return _results(jobs), signal
    signal = run_all(jobs, out, "another firstsight omniglot or firstsight figure", workers=workers)
    return _results(jobs), signal


def _say_cost(waiting: Sequence[CurriculumJob], images: npt.NDArray[np.uint8], workers: int) -> str:
    """Try the first job up to its first check, and say what all will take at that pace; the signal that ended this."""
    settings = waiting[0].settings
    with one_thread():
        found = run_curriculum(images, settings.replace(max_steps=min(settings.check_every, settings.max_steps)))
    if found["reason"].startswith("SIG"):
        return str(found["reason"])
    seconds = sum(found["seconds"].values()) / max(1, found["steps"])
    say_seconds([seconds * job.settings.max_steps for job in waiting], workers)
    return ""


def make_jobs(
    data: Path, variants: Mapping[str, Curriculum], seeds: Sequence[int], out: Path, facts: Mapping[str, Any]
) -> list[CurriculumJob]:
    """All runs, seed by seed."""
    return [
        CurriculumJob(name, settings.replace(seed=seed), out / name / f"seed-{seed}", data, facts)
        for seed in seeds
        for name, settings in variants.items()
    ]


def finished(data: Path, variants: Mapping[str, Curriculum], seeds: Sequence[int], out: Path) -> Results:
    """What ``run_curricula`` has brought so far."""
    return _results(make_jobs(data, variants, seeds, out, image_facts(open_omniglot(data).images)))


def _results(jobs: Sequence[CurriculumJob]) -> Results:
    results: Results = {job.variant: {} for job in jobs}
    for job in jobs:
        if result := job.result():
            results[job.variant][job.settings.seed] = result
    return results


def read_result(job: CurriculumJob) -> Result:
    """The run's ``result.json``."""
    path = job.folder / "result.json"
    result = read_json(path, "the result of a curriculum", _SHAPE, "Delete it, or give another folder.")
    saved = Curriculum.from_dict(result["settings"], str(path))
    what = saved.changes(job.settings, MAY_CHANGE)
    if result["steps"] > job.settings.max_steps:
        what = f"it has run for {result['steps']} steps, more than the {job.settings.max_steps} that are wanted"
    if result["images"] != dict(job.facts):
        what = "it was trained on other images"
    if what:
        raise InputError(f"{path} is of another run: {what}. Give another folder, or what it was run with.")
    return {**result, "settings": saved.to_dict()}
