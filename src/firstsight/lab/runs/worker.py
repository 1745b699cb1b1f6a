"""The process of a job: ``python -m firstsight.lab.runs.worker JSON``, started by ``jobs``."""

import json
import os
import signal
import sys
import threading
from importlib import import_module

import torch

from firstsight.errors import InputError
from firstsight.lab.system.folder import ORPHANS, hold
from firstsight.lab.system.machine import flushed_denormals
from firstsight.lab.system.progress import shown


def exit_code(reason: str) -> int:
    """Of a process that ended for this reason: a signal's name, or anything else for well."""
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


def main() -> None:
    """Do what the starter told, and end with the code that it gives."""
    told = json.loads(sys.argv[1])
    sys.argv = list(told["command"])  # what results are to say made them
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, function = told["does"].split(":")
    try:
        with flushed_denormals(), hold(told["holds"], told["kind"], wait=ORPHANS):
            code = getattr(import_module(module), function)(told)
    except (InputError, OSError) as error:
        print(f"firstsight: {shown(str(error))}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _end_with_parent() -> None:
    """End as SIGTERM does when the starter is gone: standard input is a pipe of which it alone holds the other end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
