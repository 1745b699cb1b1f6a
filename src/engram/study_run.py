"""Running the jobs of a study, each in a process of its own with one thread, as many at a time as there are cores."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engram.data.pool import cores
from engram.errors import InputError
from engram.interrupt import ending_signals
from engram.progress import readable, say
from engram.provenance import provenance
from engram.report.study import write_study
from engram.study import OUTCOME, Job, check_jobs, is_finished, load_study, make_jobs, record

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TAIL = 12  # lines of a failed job's log that are shown


class JobsFailedError(InputError):
    """Jobs of a study failed; ``exit_code`` is 2 where all of them reported bad input, else 1."""


@dataclass
class _Running:
    """A job at work. ``process.stdin`` is open as long as the study lives: see ``study_job``."""

    job: Job
    process: subprocess.Popen[bytes]
    began: float


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
        JobsFailedError: jobs failed, in any way but by diverging; all others have been run.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more jobs at a time.")
    recipe = load_study(path)
    jobs = make_jobs(recipe, out)
    check_jobs(jobs)
    with _alone(out) as lock, ending_signals() as received:
        study = {"recipe": recipe.values, "file": str(path), **provenance(), "jobs": [record(job) for job in jobs]}
        write_study(out, study)
        failures = _run_jobs(jobs, study, out, workers or cores(), lock, received)
    if received:
        return {**study, "interrupted": received[0]}
    if failures:
        code = 2 if set(failures.values()) == {2} else 1
        raise _failed({job.title: job.folder / "log.txt" for job in jobs if job.title in failures}, code)
    return study


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


@contextmanager
def _alone(out: Path) -> Iterator[IO[str]]:
    """Hold the study's lock. The jobs inherit it, so it lasts until the last of them has ended too."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{out}: a study is at work in this folder. Wait for its end, or end it.") from error
        yield lock


def _run_jobs(
    jobs: Sequence[Job], study: dict[str, Any], out: Path, workers: int, lock: IO[str], received: list[str]
) -> dict[str, int]:
    """Run what is not finished; the exit code of each job that failed, by title."""
    waiting = [job for job in jobs if not is_finished(job)]
    running: list[_Running] = []
    paces: list[tuple[int, float]] = []
    failures: dict[str, int] = {}
    told = False
    say(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} of them done already, {workers} at a time")
    try:
        while running or (waiting and not received):
            while waiting and len(running) < workers and not received:
                running.append(_start(waiting.pop(0), lock))
            if received and not told:
                _tell(running, signal.SIGTERM)
                told = True
            time.sleep(0.1)
            for ended in [one for one in running if one.process.poll() is not None]:
                running.remove(ended)
                job, found = ended.job, record(ended.job)
                study["jobs"][jobs.index(job)] = found
                if found["state"] == "waiting" and not received:
                    failures[job.title] = ended.process.returncode
                    found["state"] = "failed"
                    say(f"{job.title} failed; the end of its log:\n{_tail(job.folder / 'log.txt', TAIL)}")
                write_study(out, study)
                if found["state"] == "done":
                    paces.append((job.tokens, time.monotonic() - ended.began))
                if found["state"] != "waiting":
                    at_work = [time.monotonic() - one.began for one in running]
                    tokens = sum(job.tokens for job in [*waiting, *(one.job for one in running)])
                    say(_progress(found, study, job.title, seconds_left(tokens, paces, at_work, workers)))
    finally:
        _tell(running, signal.SIGKILL)
        for one in running:
            one.process.wait()
    return failures


def _start(job: Job, lock: IO[str]) -> _Running:
    """The job in a session of its own: a terminal's Ctrl-C reaches it through the study alone, and once."""
    job.folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "data": job.source,
        "folder": str(job.folder),
        "config": job.config.to_dict(),
        "split": job.split,
    }
    told |= {"outcome": str(job.folder / OUTCOME), "command": sys.argv}
    with open(job.folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engram.study_job", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **THREADS},
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    return _Running(job, process, time.monotonic())


def _tell(running: Sequence[_Running], number: signal.Signals) -> None:
    for one in running:
        one.process.send_signal(number)


def _progress(ended: Mapping[str, Any], study: Mapping[str, Any], title: str, left: float) -> str:
    """``3 of 18: wikitext-2 wide paper seed 0: perplexity 187.83, 241 s; about 1 h 05 min left``."""
    counted = sum(one["state"] != "waiting" for one in study["jobs"])
    found = f"perplexity {readable(ended['perplexity'])}" if ended["perplexity"] else ended["state"]
    text = f"{counted} of {len(study['jobs'])}: {title}: {found}, {ended['seconds'] or 0:.0f} s"
    return f"{text}; about {_duration(left)} left" if left else text


def seconds_left(tokens: int, paces: Sequence[tuple[int, float]], at_work: Sequence[float], workers: int) -> float:
    """Seconds until the last job ends, at the pace of those that have ended; 0 where none has.

    Args:
        tokens: of all jobs that have not ended.
        paces: (tokens, seconds from start to end) of each job that was run.
        at_work: seconds for which each running job has run.
        workers: jobs at a time.
    """
    done, seconds = sum(pace[0] for pace in paces), sum(pace[1] for pace in paces)
    return max(0.0, tokens * seconds / done - sum(at_work)) / workers if done else 0.0


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def _tail(path: Path, lines: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-lines:]
    return "\n".join(f"  {line.removeprefix('engram: ')}" for line in text)


def _failed(logs: Mapping[str, Path], code: int) -> JobsFailedError:
    told = "; ".join(f"{title}: {_tail(log, 1).strip()} ({log})" for title, log in logs.items())
    error = JobsFailedError(
        f"{len(logs)} of the jobs failed, the others are done. {told}. The same command tries again."
    )
    error.exit_code = code
    return error
