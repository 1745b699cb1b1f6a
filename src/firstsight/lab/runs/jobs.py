"""Many long jobs, each in a process of its own with one thread, as many at a time as there are cores."""

import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from firstsight.errors import InputError
from firstsight.lab.system.folder import hold
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.machine import check_processes, cores
from firstsight.lab.system.progress import duration, say

WORKER = "firstsight.lab.runs.worker"
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TAIL = 12  # lines of a failed job's log that are shown
QUIET = 60.0  # seconds without a word, after which how far the jobs are is said


class JobsFailedError(InputError):
    """Jobs failed; ``exit_code`` is 2 where all of them reported bad input, else 1."""


@dataclass(frozen=True)
class Ended:
    """A job that is done: what to say of it, and whether all of its work was done in this process."""

    text: str
    whole: bool = True


class Job(ABC):
    """What one process does, and how to see that it is done. What is done stays done."""

    folder: Path
    """of the run, where its ``log.txt`` goes"""
    kind: str = ""
    """of this folder, see ``folder.hold``"""
    does: str
    """``module:function`` that its process calls with what it is told, and that gives the exit code"""

    @property
    @abstractmethod
    def title(self) -> str:
        """Names it to the user, and differs from all others."""

    @property
    @abstractmethod
    def work(self) -> float:
        """How long it is, in any unit, for the time left."""

    def share(self) -> float:
        """How much of it is behind it, from 0 to 1, as far as its files tell; 0 where they do not."""
        return 0.0

    @abstractmethod
    def told(self) -> Mapping[str, Any]:
        """What the worker is given, as JSON."""

    @abstractmethod
    def ended(self) -> Ended | None:
        """What is to be said of it once nothing is left to do; None while there is.

        Raises:
            InputError: the folder holds something else.
        """


@dataclass
class _Running:
    """A job at work. ``process.stdin`` is open as long as this process lives: see ``worker``."""

    job: Job
    process: subprocess.Popen[bytes]
    began: float
    log_from: int
    """where its own lines begin in the log, after those of earlier attempts"""


def check_workers(workers: int | None) -> None:
    """Raise InputError unless so many jobs can run at a time."""
    check_processes(workers, "runs at a time")


def run_all(
    jobs: Sequence[Job],
    folder: Path,
    kind: str = "",
    *,
    workers: int | None = None,
    changed: Callable[[Job | None, bool], None] = lambda job, failed: None,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Run what is left of some jobs, say how it goes, and end well.

    SIGINT and SIGTERM are handed to the jobs as SIGTERM: each saves and ends. A second SIGINT ends them at once. If
    this process is killed they end in the same orderly way.

    Args:
        jobs: all of them, in the order they are to run.
        folder: that of all runs, which is held; its lock lasts until the last job has ended.
        kind: of this folder, see ``folder.hold``.
        workers: jobs at a time; by default one a core.
        changed: called with None before the first starts, and after each process's end with its job, and whether it
            failed.
        tick: called some times a second while jobs are at work.

    Returns:
        The name of the signal that ended it, or "".

    Raises:
        InputError: ``workers`` is below 1, another process is at work in ``folder``, or a job's folder holds something
            else.
        JobsFailedError: after all others were run: some ended without being done, and no signal had asked for it.
    """
    check_workers(workers)
    with hold(folder, kind) as lock, ending_signals() as received:
        waiting = [job for job in jobs if job.ended() is None]
        changed(None, False)
        _Schedule(waiting, len(jobs), workers or cores(), lock, received, changed, tick).run()
    return received[0] if received else ""


class _Schedule:
    def __init__(
        self,
        waiting: Sequence[Job],
        total: int,
        workers: int,
        lock: IO[str],
        received: Sequence[str],
        changed: Callable[[Job | None, bool], None],
        tick: Callable[[], None],
    ) -> None:
        self.left, self.running = list(waiting), list[_Running]()
        self.total, self.counted, self.workers = total, total - len(waiting), workers
        self.lock, self.received, self.changed, self.tick = lock, received, changed, tick
        self.paces: list[tuple[float, float]] = []
        self.failures: list[tuple[_Running, str]] = []

    def run(self) -> None:
        said, spoke = False, time.monotonic()
        begun = sum((job.folder / "log.txt").exists() for job in self.left)  # go on from their last checkpoint
        told = f", {begun} begun" if begun else ""
        say(f"{self.total} jobs, {self.counted} of them done already{told}, {self.workers} at a time")
        try:
            while self.running or (self.left and not self.received):
                while self.left and len(self.running) < self.workers and not self.received:
                    self.running.append(_start(self.left.pop(0), self.lock))
                if self.received and not said:
                    _tell(self.running, signal.SIGTERM)
                    said = True
                time.sleep(0.1)
                self.tick()
                for one in [one for one in self.running if one.process.poll() is not None]:
                    self.running.remove(one)
                    self._settle(one)
                    spoke = time.monotonic()
                if time.monotonic() - spoke > QUIET:
                    self._say_shares()
                    spoke = time.monotonic()
        finally:
            _tell(self.running, signal.SIGKILL)
            for one in self.running:
                one.process.wait()
        if self.failures and not self.received:
            raise _failed(self.failures)

    def _say_shares(self) -> None:
        shares = {one.job.title: _share(one.job) for one in self.running}
        if any(shares.values()):
            say("at work: " + ", ".join(f"{title} {share:.0%}" for title, share in shares.items()))

    def _settle(self, one: _Running) -> None:
        job = one.job
        try:
            ended = job.ended()
        except InputError as error:  # the others are to go on
            say(str(error))
            ended = None
        failed = ended is None and not self.received
        self.changed(job, failed)
        if failed:
            lines = _lines(one)
            self.failures.append((one, lines[-1]))
            say("\n  ".join([f"{job.title} failed; the end of its log:", *lines[-TAIL:]]))
        if ended is None:
            return
        self.counted += 1
        if ended.whole:
            self.paces.append((job.work, time.monotonic() - one.began))
        at_work = [time.monotonic() - other.began for other in self.running]
        work = sum(other.work for other in [*self.left, *(other.job for other in self.running)])
        seconds = seconds_left(work, self.paces, at_work, self.workers)
        more = f"; about {duration(seconds)} left" if seconds else ""
        say(f"{self.counted} of {self.total}: {job.title}: {ended.text}{more}")


def _share(job: Job) -> float:
    try:
        return job.share()
    except InputError:  # its own end will tell
        return 0.0


def _start(job: Job, lock: IO[str]) -> _Running:
    """The job in a session of its own: a terminal's Ctrl-C reaches it through this process alone, and once."""
    job.folder.mkdir(parents=True, exist_ok=True)
    told = {**job.told(), "does": job.does, "command": sys.argv, "holds": str(job.folder), "kind": job.kind}
    with open(job.folder / "log.txt", "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **THREADS},
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    return _Running(job, process, time.monotonic(), start)


def _tell(running: Sequence[_Running], number: signal.Signals) -> None:
    for one in running:
        one.process.send_signal(number)


def seconds_left(work: float, paces: Sequence[tuple[float, float]], at_work: Sequence[float], workers: int) -> float:
    """Seconds until the last job ends, at the pace of those that have ended; 0 where none has.

    Args:
        work: of all jobs that have not ended.
        paces: (work, seconds from start to end) of each job that was run.
        at_work: seconds for which each running job has run.
        workers: jobs at a time.
    """
    done, seconds = sum(pace[0] for pace in paces), sum(pace[1] for pace in paces)
    return max(0.0, work * seconds / done - sum(at_work)) / workers if done else 0.0


def _lines(ended: _Running) -> list[str]:
    """What a job that failed wrote, and last, if that is how it ended, the signal that killed it."""
    with open(ended.job.folder / "log.txt", "rb") as log:
        log.seek(ended.log_from)
        text = log.read().decode("utf-8", errors="replace")
    lines = [line.removeprefix("firstsight: ") for line in text.rstrip().splitlines()]
    code = ended.process.returncode
    if code < 0:
        lines.append(f"killed by {signal.Signals(-code).name}")
    return lines or [f"it ended with exit code {code} and said nothing"]


def _failed(failures: Sequence[tuple[_Running, str]]) -> JobsFailedError:
    told = "; ".join(f"{one.job.title}: {line.strip()} ({one.job.folder / 'log.txt'})" for one, line in failures)
    error = JobsFailedError(
        f"{len(failures)} of the jobs failed, the others are done. {told}. The same command tries again."
    )
    error.exit_code = 2 if all(one.process.returncode == 2 for one, _ in failures) else 1
    return error
