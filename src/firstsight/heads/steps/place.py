"""Where a process is: among all, and in its work."""

import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from firstsight.errors import outside

_COLLECTIVE = ("/torch/distributed/", "/torch/nn/parallel/distributed.py")
# Between two ranks alone, and numbered with the collectives: they say nothing of the order of the others.
_OF_TWO = {"send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list"}


def process() -> tuple[int, int]:
    """This process, and the place where its number means something."""
    return os.getpid(), _place()


@cache
def _place() -> int:
    names = socket.gethostname()
    with suppress(OSError):  # containers may share the name of their machine
        names += os.readlink("/proc/self/ns/pid")
    return crc32(names.encode())


def exists(pid: int) -> bool:
    """Whether such a process is at work on this machine."""
    with suppress(OSError):  # one that has ended is there until its parent has looked
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
            return False
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def where(thread: int, group: Any) -> tuple[bool, str, tuple[str, int]]:
    """Whether a thread sits in a collective of the group, or in what may be one; where it is, in words and as a line.

    What may be one is a backward pass, which has those of DDP in it.
    """
    if (frame := sys._current_frames().get(thread)) is None:
        return False, "its thread has ended", ("", 0)
    code = frame.f_code
    collective = any(part in code.co_filename for part in _COLLECTIVE)
    backward = code.co_name == "_engine_run_backward"
    theirs = outside(frame)
    what = f"in {code.co_name} " if collective else "in a backward pass " if backward else ""
    file, line = theirs.f_code.co_filename, theirs.f_lineno
    of_group = frame.f_locals.get("group", group) in (None, group) if collective else False
    sits = backward or (of_group and code.co_name not in _OF_TWO)
    return sits, f"{what}at line {line} of {os.path.basename(file)}", (file, line)
