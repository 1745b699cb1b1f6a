"""Commands as forks of this process: each in a session of its own, watched, and gone at its end."""

import ctypes
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 4 << 30  # bytes that a command may take beyond what was there
IDLE, LONGEST = 5.0, 40.0  # seconds: without any work, and in all, after which a command hangs
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What Python itself prints, and drops, of a Ctrl-C that comes while it runs a destructor: see docs/reliability.md.
IGNORED = re.compile(r"^Exception ignored [\s\S]*?^KeyboardInterrupt: *\n", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """How a command ended; ``hang`` says why it was killed, if it was."""

    code: int
    out: str
    err: str
    seconds: float
    hang: str = ""
    orphans: int = 0
    cpu: float = 0.0


def adopt_orphans() -> None:
    """Whatever a command leaves becomes a child of this process, where it is seen; this ends with the one above it."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run_line(argv: Sequence[str]) -> int:
    """What a line of the campaign does: a command of firstsight, or what a program does with the library."""
    from tests.campaign import programs

    if argv[0] in programs.PROGRAMS:
        return programs.run(argv)
    from firstsight.__main__ import main

    sys.argv = ["firstsight", *argv]
    return main()


class Command:
    """A command at work; ``first`` is called in its process before it starts."""

    def __init__(self, argv: Sequence[str], cwd: Path, log: Path, first: Callable[[], None] | None = None) -> None:
        self.log, self.began = log, time.monotonic()
        self.code: int | None = None
        self.cpu = 0.0
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the command itself begins
        self.pid = os.fork()
        if not self.pid:
            self._child(argv, cwd, first)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _child(self, argv: Sequence[str], cwd: Path, first: Callable[[], None] | None) -> None:
        code = 99
        try:
            os.setsid()
            for number in SIGNALS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.chdir(cwd)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{self.log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))
            with open("/proc/self/statm", encoding="ascii") as file:
                limit = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            if first:
                first()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = run_line(argv)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt as end:
            code = 130
            if "/firstsight/lab/" in "".join(traceback.format_tb(end.__traceback__)):  # and not in this file
                traceback.print_exc()
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, or minus the signal, once it has ended."""
        if self.code is None:
            done, status, used = os.wait4(self.pid, os.WNOHANG)
            if done:
                self.code, self.cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return self.code

    def signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, longest: float = LONGEST, others: Sequence[int] = ()) -> Ended:
        """Until its end, or until it hangs; what it started is gone afterwards, but for ``others``, which go on."""
        hang, seen, since = "", -1, time.monotonic()
        while self.poll() is None:
            now = time.monotonic()
            time.sleep(0.002 if now - self.began < 0.5 else 0.02)
            ticks, busy = _work(self.pid)
            if busy or ticks != seen:
                seen, since = ticks, now
            if now - since > IDLE:
                hang = "waits for ever"
            elif now - self.began > longest:
                hang = f"takes more than {longest:.0f} s"
            if hang:
                end_all(_descendants(self.pid))
                end_all([self.pid])
        seconds = time.monotonic() - self.began
        orphans = wait_for_orphans(others)
        out, err = (Path(f"{self.log}.{name}").read_text(errors="replace") for name in ("out", "err"))
        err = IGNORED.sub("", err)
        return Ended(self.code if self.code is not None else 99, out, err, seconds, hang, orphans, self.cpu)


def _work(pid: int) -> tuple[int, bool]:
    """Clock ticks that a process has used, and whether it is at work or waits for children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, True
    return int(fields[11]) + int(fields[12]), fields[0] == "R" or bool(_children(pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return found + [one for child in found for one in _descendants(child)]


def end_all(pids: Sequence[int]) -> None:
    """Kill some processes, and wait for those that are this one's children."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for_orphans(others: Sequence[int] = (), patience: float = 3.0) -> int:
    """Reap what a command left behind; how many had to be killed since they did not end by themselves."""
    end = time.monotonic() + patience
    while left := [pid for pid in _children(os.getpid()) if pid not in others]:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > end:
            living = [pid for pid in left if _alive(pid)]
            for pid in living:
                end_all([*_descendants(pid), pid])
            for pid in living:
                os.waitpid(pid, 0)
            return len(living)
        time.sleep(0.005)
    return 0


def _alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def call(argv: Sequence[str], cwd: Path, log: Path, first: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end."""
    return Command(argv, cwd, log, first).wait()


def must(argv: Sequence[str], cwd: Path, log: Path, first: Callable[[], None] | None = None, code: int = 0) -> str:
    """Run a command that has to end well, and give what it printed."""
    ended = call(argv, cwd, log, first)
    if ended.code != code:
        raise RuntimeError(f"{json.dumps(list(argv))} ended with {ended.code} ({ended.hang}):\n{ended.err[-4000:]}")
    return ended.out
