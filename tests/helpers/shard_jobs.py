"""What the processes of a pool do in tests; here, since they import it by its name."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data.shards import Add, Item

DocumentOf = tuple[str, str, list[list[str]]]  # split, name, lines


def give(documents: list[DocumentOf], seconds: float, add: Add) -> dict[str, Any]:
    time.sleep(seconds)
    for document in documents:
        add(*document)
    return {"documents": len(documents)}


def refuse(message: str, add: Add) -> dict[str, Any]:
    raise InputError(message)


def be_killed(add: Add) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def linger(pids: Path, add: Add) -> dict[str, Any]:
    (pids / str(os.getpid())).touch()
    time.sleep(600)
    return {}


def item(key: str, documents: list[DocumentOf], seconds: float = 0.0, fingerprint: str = "1") -> Item:
    return Item(key, 1, fingerprint, partial(give, documents, seconds))
