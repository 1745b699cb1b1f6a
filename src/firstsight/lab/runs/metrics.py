"""``metrics.jsonl``: a line for each validation of a run."""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write, parse_json, regular_file
from firstsight.lab.system.manifest import check_there, checked, noted
from firstsight.lab.system.shape import COUNT, NUMBER, NUMBER_OR_NULL, TEXT, WHOLE, Shape, check_shape, is_finite

# What stands for a band of frequency where < and > may not.
_BANDS = {">10K": "over_10K", "<100": "under_100"}
LINE: Shape = {
    "step": WHOLE,
    "tokens": WHOLE,
    "train_loss": NUMBER_OR_NULL,
    "valid_loss": NUMBER_OR_NULL,
    "seconds?": COUNT,
    "valid_perplexity?": NUMBER_OR_NULL,
    "valid_bands?": [{"name": TEXT, "perplexity": NUMBER_OR_NULL}],
    "test_sample?": {"perplexity": NUMBER_OR_NULL},
    "classes_seen?": NUMBER,
    "classes_past_T?": NUMBER,
}
"""Of a line; the ``sights`` are looked at by whoever adds them up."""
_WHAT, _MEND = "the metrics of a run", "Put a copy of the file back, or train anew."


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``, on the disk when this returns."""
    added = json.dumps(line).encode() + b"\n"
    before = path.read_bytes() if path.exists() else b""
    with noted(path, before + added), open(path, "ab") as file:
        file.write(added)
        file.flush()
        os.fsync(file.fileno())


def cut_metrics(path: Path, step: int) -> None:
    """Drop what ``metrics.jsonl`` holds past ``step``, and a last line that a kill cut off: both are written again."""
    kept = []
    lines = _read(path).splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        if parse_json(line, f"{path}, line {number}", _WHAT, {"step": WHOLE}, _MEND)["step"] <= step:
            kept.append(line)
    with atomic_write(path, "wb") as file:
        file.writelines(kept)


def _read(path: Path) -> bytes:
    """The file, of which all but a last line that a kill cut off is held against its manifest."""
    path, rest = regular_file(path, _WHAT), b""

    def whole() -> bytes:
        nonlocal rest
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        rest = content[end:]
        return content[:end]

    return checked(path, whole) + rest


def last_step(path: Path) -> int:
    """The step of the last validation that is written down; 0 before the first."""
    lines = read_metrics(path)
    return int(lines[-1]["step"]) if lines else 0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, each of the shape ``LINE``; none where the file has not been begun.

    A last line cut off by a killed run is left out.
    """
    check_there(path)
    if not path.exists():
        return []
    lines = _read(path).split(b"\n")
    metrics: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = parse_json(line, where, _WHAT, mend=_MEND)
        except InputError:
            if number == len(lines):  # no line end after it: the run was killed while it wrote
                break
            raise
        check_shape(values, LINE, where, _MEND)
        if metrics and values["step"] <= metrics[-1]["step"]:
            raise InputError(f"{where}: step {values['step']} comes after {metrics[-1]['step']}. {_MEND}")
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
