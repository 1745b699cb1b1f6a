"""Processes of a job: forks of the test under torchrun's own agent, which save the seconds that importing takes."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
import torch._dynamo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from firstsight.lab import cli
from firstsight.lab.lm import training


def fork(ranks: int, work: Callable, *args) -> list:
    """``work(*args)`` on each of so many ranks, in float64: what each returned, in the order of the ranks."""
    found = _launch(ranks, _in_float64, work, *args)
    return [found[rank] for rank in range(ranks)]


def _launch(ranks: int, work: Callable, *args, restarts: int = 0) -> dict:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        start_method="fork",
        monitor_interval=0.05,
        max_restarts=restarts,
    )
    return elastic_launch(config, work)(*args)


def _in_float64(work: Callable, *args):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    return work(*args)


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def train_all(corpus, jobs) -> list[str]:
    """Train each of (out, config, resume), one after the other, and say how each ended."""
    return [training.train(corpus, out, config, resume=resume).reason for out, config, resume in jobs]


@contextlib.contextmanager
def job(ranks: int, folder: Path, *arguments: object, restarts: int = 0) -> Iterator[SimpleNamespace]:
    """``torchrun --nproc-per-node RANKS -m firstsight ...`` as forks, which print to ``folder``.

    ``pid`` is that of the agent, ``pid_of(rank)`` of a rank, ``wait()`` for the end of all. None outlives the block.
    """
    agent = os.fork()
    if not agent:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            _launch(ranks, _command, folder, [str(argument) for argument in arguments], restarts=restarts)
        os._exit(0)

    def pid_of(rank: int) -> int:
        return int((folder / f"{rank}.pid").read_text())

    ended = []

    def wait() -> None:
        while not ended:
            ended.extend(os.waitpid(agent, 0)[:1])

    try:
        yield SimpleNamespace(pid=agent, pid_of=pid_of, wait=wait)
    finally:
        if not ended:
            for path in folder.glob("*.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGKILL)
            wait()


def _command(folder: Path, arguments: list[str]) -> None:
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a fresh Python has them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 99
    if code:  # of a success torchrun's agent awaits what it returns
        os._exit(code)


def rank_pids(agent: int) -> dict[int, int]:
    """The processes of ``torchrun``, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            entries = (folder / "environ").read_bytes().split(b"\0")
            if parent == agent:
                found[int(next(entry for entry in entries if entry.startswith(b"RANK="))[5:])] = int(folder.name)
    return found
