"""``metrics.jsonl``: a line for each validation of a run."""

import json
import os
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``, on the disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_metrics(path: Path, step: int) -> None:
    """Drop what ``metrics.jsonl`` holds past ``step``, and a last line that a kill cut off: both are written again.

    Raises:
        InputError: another line is damaged.
    """
    kept = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: this is no line of a run's metrics ({error}). Delete it and run again."
            ) from error
    with atomic_write(path, "wb") as file:
        file.writelines(kept)
