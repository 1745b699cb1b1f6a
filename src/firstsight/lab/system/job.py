"""The processes of a ``torchrun`` job beside their collectives: one voice, and what becomes of them when one is gone.

They meet in the store of torchrun's agent, which outlives each of them.
"""

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist

from firstsight.errors import InputError
from firstsight.heads.steps.peers import RankLostError

LOOK = 10.0  # seconds in which a survivor finds out who is gone; torchrun ends it 30 s after it saw a failure
HEAR = 20.0  # seconds that a process which ends with an error leaves to rank 0 to say why
_POLL = 0.05
# A process that is killed closes its connections, and the others notice at once. One that hangs, or whose machine is
# gone, they wait for so long in a collective; no work that others wait for may take longer.
PATIENCE = timedelta(minutes=10)


class PeerLostError(InputError):
    """Another process of the job is gone: no mistake in the input, so the exit code is 1."""

    exit_code = 1


def number(name: str, least: int = 0, default: str | None = None) -> int:
    """A whole number that the launcher gave to this process as a variable of the environment.

    Raises:
        InputError: it is none, or below ``least``.
    """
    text = os.environ.get(name, default)
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        what = "not set" if text is None else repr(text[:40])
        raise InputError(
            f"the environment variable {name} is {what}; expected a whole number, {least} or more. torchrun sets it, "
            "for each of its processes: start them with torchrun, or unset WORLD_SIZE to run in one process."
        )
    return int(text)


def world_size() -> int:
    """The processes of the job; 1 without torchrun."""
    return number("WORLD_SIZE", 1, "1")


def launched() -> bool:
    """Whether this is one of several processes that torchrun started.

    Raises:
        InputError: it is, and what torchrun sets is not as it sets it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or world_size() == 1:
        return False
    for name, of in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("GROUP_RANK", "GROUP_WORLD_SIZE")):
        if number(name) >= number(of, 1):
            raise InputError(
                f"the environment variables {name} and {of} are {number(name)} and {number(of)}; expected {name} to be "
                f"below {of}. torchrun sets them for each of its processes; leave them as they are."
            )
    number("MASTER_PORT", 1)
    return True


def rank() -> int:
    """Which of them this is, from 0; 0 without torchrun."""
    return number("RANK") if launched() else 0


def local_world_size() -> int:
    """Those of them on this machine."""
    return number("LOCAL_WORLD_SIZE", 1)


def check_launcher() -> None:
    """Raise InputError unless these processes, if they are several, were started by torchrun as we need it."""
    if world_size() == 1:
        return
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise InputError(
            f"WORLD_SIZE is {world_size()}, but it was not torchrun that started these processes, or not with a store "
            "of its own. Start them with torchrun (--standalone on one machine, --master-addr on several), and leave "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE alone; or unset WORLD_SIZE to train in one process."
        )
    node, local = number("GROUP_RANK"), local_world_size()
    even = world_size() == local * number("GROUP_WORLD_SIZE", 1)
    if not even or rank() != node * local + number("LOCAL_RANK"):
        raise InputError(
            f"{world_size()} processes, and {local} of them on machine {node}: expected as many on each machine. Give "
            "each torchrun the same --nproc-per-node."
        )


def as_one(command: Callable[[], int]) -> int:
    """Run a command in every process of a job as if it were one: rank 0 alone is heard.

    What the others print is thrown away, and where all of them fail alike, none ends before rank 0 has said why:
    torchrun ends a job with the first of its processes that fails. A failure that rank 0 does not share is told by the
    first process that has it. Exceptions that are nobody's input keep their traceback.
    """
    try:
        if rank() == 0:
            code = _ended(command)
            _note("told", str(code))
            return code
        heard = io.StringIO()
        with redirect_stdout(heard), redirect_stderr(heard):
            code = _ended(command)
        if code and not _told():
            print(heard.getvalue(), end="", file=sys.stderr)
        return code
    finally:
        _note(f"ended/{rank()}", "")


def _ended(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as end:  # how the parser of the flags ends
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _told() -> bool:
    """Whether somebody else has said why this job fails."""
    end = time.monotonic() + HEAR
    try:
        while time.monotonic() < end and not _has("dead/0"):
            if _has("told"):
                if store().get("told") != b"0":
                    return True
                break
            time.sleep(_POLL)
        return int(store().add("voices", 1)) > 1
    except RuntimeError:  # with nobody to ask, each speaks for itself
        return False


def introduce() -> None:
    """Say where this process lives, for others to see whether it still does."""
    store().set(f"lives/{rank()}", f"{os.getpid()} {socket.gethostname()}")


@contextmanager
def peers() -> Iterator[None]:
    """Turn the failure of a collective into one sentence that names the process that is gone.

    SIGTERM is ignored from then on: the process is ending, and torchrun, which has seen the failure too, would
    keep it from saying why.

    Raises:
        PeerLostError: in place of what gloo or NCCL raised.
    """
    try:
        yield
    except RuntimeError as error:
        if not (launched() and _of_collective(error)):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise PeerLostError(_lost(error)) from None


def _of_collective(error: RuntimeError) -> bool:
    # gloo's are plain RuntimeErrors that begin with the line of its source
    return isinstance(error, dist.DistError | RankLostError) or "gloo" in str(error)


def _lost(error: RuntimeError) -> str:
    """Who is gone: on this machine a process that does not exist any more, elsewhere one that does not answer."""
    others = [other for other in range(world_size()) if other != rank()]
    try:
        store().set(f"noticed/{rank()}", "")
        end = time.monotonic() + LOOK
        while not (gone := [other for other in others if _is_gone(other)]) and time.monotonic() < end:
            if silent := [other for other in others if not _has(f"noticed/{other}") and not _has(f"ended/{other}")]:
                time.sleep(_POLL)
            else:
                break
        where = {other: _where(other) for other in gone or silent}
    except RuntimeError:  # the store is gone too, and with it the agent
        where, gone = {}, []
    if where:
        names = ", ".join(f"rank {other} ({place})" for other, place in where.items())
        what = f"{names} {'is gone' if gone else 'does not answer'}"
    else:
        what = f"the processes of the job lost each other ({' '.join(str(error).split())[:200]})"
    return (
        f"{what}, so the others end as well. Checkpoints are whole: the same command with --resume goes on from the "
        "last one, with any number of processes."
    )


def _is_gone(other: int) -> bool:
    if _has(f"dead/{other}"):
        return True
    if _has(f"ended/{other}") or not _has(f"lives/{other}"):
        return False
    pid, host = store().get(f"lives/{other}").decode().split()
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)  # sends nothing
    except ProcessLookupError:
        store().set(f"dead/{other}", "")
        return True
    return False


def _where(other: int) -> str:
    if not _has(f"lives/{other}"):
        return "it never came"
    pid, host = store().get(f"lives/{other}").decode().split()
    return f"process {pid} on {host}"


def _note(key: str, value: str) -> None:
    with suppress(RuntimeError):  # the store is gone when its machine is, and then nobody reads it
        store().set(key, value)


def _has(key: str) -> bool:
    return bool(store().check([key]))


@cache
def store() -> Any:
    """The agent's, with keys of this attempt alone: after a restart of the job the old ones are still there."""
    address, port = os.environ["MASTER_ADDR"], number("MASTER_PORT", 1)
    options: dict[str, Any] = {"is_master": False, "wait_for_workers": False, "timeout": PATIENCE}
    shared = dist.TCPStore(address, port, **options)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"firstsight/{attempt}", shared)  # type: ignore[attr-defined]
