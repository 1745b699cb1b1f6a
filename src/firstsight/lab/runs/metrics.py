"""``metrics.jsonl``: a line for each validation of a run."""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write
from firstsight.lab.system.shape import is_finite, is_number_or_none

# What stands for a band of frequency where < and > may not.
_BANDS = {">10K": "over_10K", "<100": "under_100"}
METRICS = ("step", "tokens", "train_loss", "valid_loss")  # what every line has


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``, on the disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_metrics(path: Path, step: int) -> None:
    """Drop what ``metrics.jsonl`` holds past ``step``, and a last line that a kill cut off: both are written again."""
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


def last_step(path: Path) -> int:
    """The step of the last validation that is written down; 0 before the first."""
    lines = read_metrics(path) if path.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, each with ``METRICS``. A last line cut off by a killed run is left out."""
    mend = f"Expected a JSON object with {', '.join(METRICS)}. Delete the line, or train anew."
    lines = path.read_bytes().split(b"\n")
    metrics = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no line end after it: the run was killed while it wrote
                break
            raise InputError(f"{path}, line {number}: this is damaged ({error}). {mend}") from error
        if not isinstance(values, dict) or not all(is_number_or_none(values.get(name, "missing")) for name in METRICS):
            raise InputError(f"{path}, line {number}: a number is missing or of another kind. {mend}")
        metrics.append(values)
    return metrics


def flat(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line by name; of those in lists ``valid_perplexity/100-1K``, ``train_loss/seen_4``.

    The bands ``>10K`` and ``<100`` are ``over_10K`` and ``under_100``, as tools take no other signs.
    """
    found = {name: value for name, value in line.items() if is_finite(value)}
    for band in line.get("valid_bands") or []:
        found[f"valid_perplexity/{_BANDS.get(band['name'], band['name'])}"] = band["perplexity"]
    for bucket in line.get("sights") or []:
        found[f"train_loss/seen_{bucket['seen']}"] = bucket["nll"]
    for name, value in (line.get("test_sample") or {}).items():
        found[f"test_sample/{name}"] = value
    return {name: value for name, value in found.items() if is_finite(value)}


def write_csv(path: Path, runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> Path:
    """Write the lines of some runs as one table, a row a line, the run's name first; what a line lacks is empty."""
    rows = [{"run": name, **flat(line)} for name, lines in runs.items() for line in lines]
    with atomic_write(path) as file:
        writer = csv.DictWriter(
            file, list(dict.fromkeys(["run", *(name for row in rows for name in row)])), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path
