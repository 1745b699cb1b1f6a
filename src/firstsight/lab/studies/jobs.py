"""Many long tasks, each in a process of its own with one thread, as many at a time as there are cores."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from firstsight.errors import InputError
from firstsight.lab.system.progress import duration, say

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TAIL = 12  # lines of a failed task's log that are shown


class TasksFailedError(InputError):
    """Tasks failed; ``exit_code`` is 2 where all of them reported bad input, else 1."""


@dataclass(frozen=True)
class Task:
    """What one process does: ``python -m module JSON``.

    Args:
        title: names it to the user, and differs from all others.
        folder: where its ``log.txt`` goes.
        module: it ends in ``run_task(work)``.
        told: what ``work`` is given.
        work: how long it is, in any unit, for the time left.
    """

    title: str
    folder: Path
    module: str
    told: Mapping[str, Any]
    work: float


@dataclass(frozen=True)
class Settled:
    """A task that is done: what to say of it, and whether all of its ``work`` was done in this process."""

    text: str
    whole: bool = True


@dataclass
class _Running:
    """A task at work. ``process.stdin`` is open as long as this process lives: see ``run_task``."""

    task: Task
    process: subprocess.Popen[bytes]
    began: float
    log_from: int
    """where its own lines begin in the log, after those of earlier attempts"""


@contextmanager
def alone(folder: Path, what: str) -> Iterator[IO[str]]:
    """Hold a folder's lock. Tasks inherit it, so it lasts until the last of them has ended too.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: {what} is at work in this folder. Wait for its end, or end it.") from error
        yield lock


def run_tasks(
    waiting: Sequence[Task],
    settle: Callable[[Task], Settled | None],
    *,
    total: int,
    workers: int,
    lock: IO[str],
    received: Sequence[str],
) -> None:
    """Run tasks, say how it goes, and end well.

    SIGINT and SIGTERM are handed to the tasks as SIGTERM: each saves and ends. If this process is killed they end in
    the same orderly way.

    Args:
        waiting: what is to be run, in this order.
        settle: called after each process's end; None if the task is not done.
        total: how many there are with those that were done before.
        workers: tasks at a time.
        lock: an open file that the tasks inherit, see ``alone``.
        received: the signals that ask for the end, see ``ending_signals``.

    Raises:
        TasksFailedError: after all others were run: some ended without being done, and no signal had asked for it.
    """
    left, running = list(waiting), list[_Running]()
    paces: list[tuple[float, float]] = []
    failures: list[tuple[_Running, str]] = []
    told, counted = False, total - len(left)
    say(f"{total} jobs, {counted} of them done already, {workers} at a time")
    try:
        while running or (left and not received):
            while left and len(running) < workers and not received:
                running.append(_start(left.pop(0), lock))
            if received and not told:
                _tell(running, signal.SIGTERM)
                told = True
            time.sleep(0.1)
            for ended in [one for one in running if one.process.poll() is not None]:
                running.remove(ended)
                task = ended.task
                settled = settle(task)
                if settled is None and not received:
                    lines = _lines(ended)
                    failures.append((ended, lines[-1]))
                    say("\n  ".join([f"{task.title} failed; the end of its log:", *lines[-TAIL:]]))
                if settled is None:
                    continue
                counted += 1
                if settled.whole:
                    paces.append((task.work, time.monotonic() - ended.began))
                at_work = [time.monotonic() - one.began for one in running]
                work = sum(one.work for one in [*left, *(one.task for one in running)])
                seconds = seconds_left(work, paces, at_work, workers)
                more = f"; about {duration(seconds)} left" if seconds else ""
                say(f"{counted} of {total}: {task.title}: {settled.text}{more}")
    finally:
        _tell(running, signal.SIGKILL)
        for one in running:
            one.process.wait()
    if failures and not received:
        raise _failed(failures)


def _start(task: Task, lock: IO[str]) -> _Running:
    """The task in a session of its own: a terminal's Ctrl-C reaches it through this process alone, and once."""
    task.folder.mkdir(parents=True, exist_ok=True)
    with open(task.folder / "log.txt", "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", task.module, json.dumps({**task.told, "command": sys.argv})],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **THREADS},
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    return _Running(task, process, time.monotonic(), start)


def _tell(running: Sequence[_Running], number: signal.Signals) -> None:
    for one in running:
        one.process.send_signal(number)


def seconds_left(work: float, paces: Sequence[tuple[float, float]], at_work: Sequence[float], workers: int) -> float:
    """Seconds until the last task ends, at the pace of those that have ended; 0 where none has.

    Args:
        work: of all tasks that have not ended.
        paces: (work, seconds from start to end) of each task that was run.
        at_work: seconds for which each running task has run.
        workers: tasks at a time.
    """
    done, seconds = sum(pace[0] for pace in paces), sum(pace[1] for pace in paces)
    return max(0.0, work * seconds / done - sum(at_work)) / workers if done else 0.0


def _lines(ended: _Running) -> list[str]:
    """What a task that failed wrote, and last, if that is how it ended, the signal that killed it."""
    with open(ended.task.folder / "log.txt", "rb") as log:
        log.seek(ended.log_from)
        text = log.read().decode("utf-8", errors="replace")
    lines = [line.removeprefix("firstsight: ") for line in text.rstrip().splitlines()]
    code = ended.process.returncode
    if code < 0:
        lines.append(f"killed by {signal.Signals(-code).name}")
    return lines or [f"it ended with exit code {code} and said nothing"]


def _failed(failures: Sequence[tuple[_Running, str]]) -> TasksFailedError:
    told = "; ".join(f"{one.task.title}: {line.strip()} ({one.task.folder / 'log.txt'})" for one, line in failures)
    error = TasksFailedError(
        f"{len(failures)} of the jobs failed, the others are done. {told}. The same command tries again."
    )
    error.exit_code = 2 if all(one.process.returncode == 2 for one, _ in failures) else 1
    return error


def run_task(work: Callable[[Mapping[str, Any]], int]) -> None:
    """The last line of a task's module: do ``work`` with what the starter told, and end with the code it gives."""
    told = json.loads(sys.argv[1])
    sys.argv = list(told["command"])  # what results are to say made them
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        code = work(told)
    except (InputError, OSError) as error:
        print(f"firstsight: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _end_with_parent() -> None:
    """End as SIGTERM does when the starter is gone: standard input is a pipe of which it alone holds the other end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
