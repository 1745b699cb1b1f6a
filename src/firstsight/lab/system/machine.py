"""This machine and this program: where a number or a file comes from, and what it can be made with.

torch is imported where it is asked: the processes of a pool, which make tokens, start in a tenth of the time without.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstsight._version import __version__
from firstsight.errors import InputError

_PROCESS = 150_000_000  # bytes of one that has torch loaded and little else

if TYPE_CHECKING:
    import torch


def provenance(device: "torch.device | None" = None) -> dict[str, Any]:
    """Where a number comes from: versions, commit (None outside a checkout), machine and command.

    Args:
        device: that it was made on; by default the GPU where there is one.
    """
    import torch

    return {
        "version": __version__,
        "torch_version": torch.__version__,
        "git_commit": _git_commit(),
        "machine": f"{_processor(device)}, {os.cpu_count()} cores",
        "command": command_line(),
    }


def _git_commit() -> str | None:
    package = Path(__file__).resolve().parent
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        # A checkout of something else around an installed package says nothing about firstsight.
        tracked = subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True)
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() or None if tracked.returncode == 0 else None


def _processor(device: "torch.device | None") -> str:
    import torch

    if torch.cuda.is_available() and (device is None or device.type == "cuda"):
        return str(torch.cuda.get_device_name(device))
    found = re.search(r"^model name\s*:(.*)", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def command_line() -> str:
    """The command that is running, as one would type it."""
    program, *arguments = sys.argv or [""]
    name = "firstsight" if Path(program).stem == "__main__" else Path(program).name
    return shlex.join([name, *arguments])


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 for 0, in this thread and those that it starts; where the CPU cannot, nothing changes.

    Probabilities that underflow make gradients of such numbers, which a CPU computes in microcode: of a softmax that is
    sure of itself a step took seven times as long.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:  # torch's default, for whoever called the command from a program
        torch.set_flush_denormal(False)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits(needed: int | None, what: str) -> None:
    """Raise InputError, which begins with ``what``, if this machine has less; None is more than can be counted."""
    has = memory_bytes()
    if needed is None or needed > has:
        said = "more than 2^63" if needed is None else f"about {needed:,}"
        raise InputError(f"{what}: that takes {said} bytes, and this machine has {has:,}. Give smaller ones.")


def check_model_fits(build: "Callable[[], torch.nn.Module]", what: str) -> None:
    """Raise InputError, which begins with ``what``, if this machine cannot hold the weights of what ``build`` makes.

    It is made without memory first, and without taking numbers from torch's generator.
    """
    import torch

    before = torch.get_rng_state()
    try:
        with torch.device("meta"):
            made = build()
        needed = sum(tensor.nbytes for tensor in [*made.parameters(), *made.buffers()])
    except InputError:
        raise
    except (RuntimeError, TypeError, OverflowError, MemoryError):  # sizes past what torch counts
        check_fits(None, what)
    else:
        check_fits(needed, what)
    finally:
        torch.set_rng_state(before)


def check_processes(workers: int | None, what: str) -> None:
    """Raise InputError unless this machine can hold so many processes; ``what`` they are, for errors."""
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected 1 or more {what}.")
    if workers is not None and workers * _PROCESS > memory_bytes():
        check_fits(workers * _PROCESS, f"workers is {workers}, of about {_PROCESS:,} bytes each")


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of memory that this process has now, or had at most ("VmHWM"); 0 where the system is no Linux."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (avx512_bf16 or AMX), as far as Linux tells.

    With them ``precision: bf16`` makes the training step about 1.7 times as fast (benchmarks/train_step.py);
    without them it is slower than fp32.
    """
    return re.search(r"^flags\s*:.*\b(avx512_bf16|amx_bf16)\b", _cpuinfo(), re.MULTILINE) is not None
