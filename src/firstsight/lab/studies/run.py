"""Running the jobs of a study."""

from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data.pool import cores
from firstsight.lab.report.study import write_study
from firstsight.lab.studies.jobs import Settled, Task, alone, run_tasks
from firstsight.lab.studies.study import OUTCOME, Job, check_jobs, is_finished, load_study, make_jobs, record
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import readable


def run_study(path: Path, out: Path, workers: int | None = None) -> dict[str, Any]:
    """Run what is left of a study, and write ``study.json``, ``table.md`` and ``study.png`` after each finished job.

    SIGINT and SIGTERM are handed to the jobs as SIGTERM: each saves a checkpoint and ends, and so does the study. A
    second SIGINT ends them at once. If the study itself is killed the jobs end in the same orderly way.

    Args:
        path: the recipe, see ``load_study``.
        out: the study's folder.
        workers: jobs at a time; by default one a core.

    Returns:
        What ``study.json`` holds, and ``"interrupted": signal`` if a signal ended it.

    Raises:
        InputError: see ``load_study`` and ``check_jobs``; ``workers`` below 1; another study is at work in ``out``.
        TasksFailedError: jobs failed, in any way but by diverging; all others have been run.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more jobs at a time.")
    recipe = load_study(path)
    jobs = {job.title: job for job in make_jobs(recipe, out)}
    check_jobs(list(jobs.values()))
    with alone(out, "a study") as lock, ending_signals() as received:
        records = {title: record(job) for title, job in jobs.items()}

        def write() -> dict[str, Any]:
            study = {"recipe": recipe.values, "file": str(path), **made, "jobs": list(records.values())}
            write_study(out, study)
            return study

        def settle(task: Task) -> Settled | None:
            records[task.title] = found = record(jobs[task.title])
            if found["state"] == "waiting" and not received:
                found["state"] = "failed"
            write()
            if found["state"] in ("waiting", "failed"):
                return None
            text = f"perplexity {readable(found['perplexity'])}" if found["perplexity"] else found["state"]
            return Settled(f"{text}, {found['seconds'] or 0:.0f} s", whole=found["state"] == "done")

        made = provenance()
        write()
        waiting = [_task(job) for job in jobs.values() if not is_finished(job)]
        run_tasks(waiting, settle, total=len(jobs), workers=workers or cores(), lock=lock, received=received)
        study = write()
    return {**study, "interrupted": received[0]} if received else study


def _task(job: Job) -> Task:
    told = {"data": job.source, "folder": str(job.folder), "config": job.config.to_dict(), "split": job.split}
    told["outcome"] = str(job.folder / OUTCOME)
    return Task(job.title, job.folder, "firstsight.lab.studies.study_worker", told, job.tokens)


def list_study(path: Path, out: Path) -> dict[str, Any]:
    """The jobs that a recipe means, how far they are, and the settings that are not the same in all of them.

    Raises:
        InputError: see ``run_study``.
    """
    jobs = make_jobs(load_study(path), out)
    check_jobs(jobs)
    first = jobs[0].config.to_dict()
    differ = [name for name in first if any(getattr(job.config, name) != first[name] for job in jobs)]
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for job in jobs:
        settings = {name: getattr(job.config, name) for name in differ if name != "seed"}
        about = {"data": job.data, "regime": job.regime, "variant": job.variant, "settings": settings, "seeds": {}}
        group = groups.setdefault((job.data, job.regime, job.variant), about)
        group["seeds"][job.seed] = record(job)["state"]
    waiting = sum(not is_finished(job) for job in jobs)
    return {"jobs": len(jobs), "waiting": waiting, "groups": list(groups.values())}
