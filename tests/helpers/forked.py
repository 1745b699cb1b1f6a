"""Tasks of ``firstsight.lab.runs.jobs`` as forks of the test, and ends that come in their midst."""

import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch._dynamo  # noqa: F401 - the first optimizer imports it: once, in place of once in every fork

from firstsight.lab import cli
from firstsight.lab.runs import worker


class Forked:
    """A task as a fork of this process in place of a fresh Python, whose imports take longer than its work.

    It stands for ``subprocess.Popen``, and takes ``[python, "-m", module, JSON]``.
    """

    def __init__(self, command, *, stdout, stderr, **_) -> None:
        end, self._lives = os.pipe()
        self.returncode, self.pid = None, os.fork()
        if not self.pid:
            code = 1
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a fresh Python has it
                for one, number in ((end, 0), (stdout.fileno(), 1), (stderr.fileno(), 2)):
                    os.dup2(one, number)
                os.close(self._lives)
                sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
                sys.argv = command[2:]
                worker.main()
            except SystemExit as end_of_task:
                code = end_of_task.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(end)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, how))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
            os.close(self._lives)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start_with(patch: pytest.MonkeyPatch, popen: Callable = Forked) -> None:
    """Let tasks be started by this in place of ``subprocess.Popen``."""
    patch.setattr("firstsight.lab.runs.jobs.subprocess", SimpleNamespace(Popen=popen, PIPE=None))


def wait_for(condition, process=None) -> None:
    """Until it holds, for five minutes at most: imports alone take one on a busy machine. Nothing outlives it."""
    end = time.monotonic() + 300
    try:
        while not condition():
            assert time.monotonic() < end
            assert process is None or process.poll() is None, process.communicate()
            time.sleep(0.02)
    except AssertionError:
        if process is not None:
            process.kill()
        raise


def end_when(condition) -> None:
    """SIGTERM to this process, from a fork of it, once the condition holds."""
    starter = os.getpid()
    if not os.fork():
        try:
            wait_for(condition)
            os.kill(starter, signal.SIGTERM)
        finally:
            os._exit(0)


def is_free(out: Path) -> bool:
    """Whether neither the starter nor one of its tasks lives: they all hold the folder's lock."""
    if not (out / ".lock").exists():
        return True
    with open(out / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class ForkedCommand:
    """``firstsight ...`` as a fork of this process, with its tasks started as this one's would be."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log, self.returncode, self.pid = log, None, os.fork()
        if not self.pid:
            code = 1
            try:
                for number in (1, 2):
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                code = cli.main([str(argument) for argument in arguments])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def communicate(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
