"""What the folder of a run says of it, without its model: checked so that no wrong or unlike number is shown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.runs.compare import check_alike
from firstsight.lab.runs.metrics import read_metrics
from firstsight.lab.runs.result import MEND, RESULT
from firstsight.lab.system.files import read_json
from firstsight.lab.system.manifest import check_there


@dataclass(frozen=True)
class Record:
    """A run folder as read. No ``metrics`` before the first validation, no ``result`` before ``firstsight eval``."""

    name: str
    folder: Path
    data: str
    config: Config
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None


def load_records(folders: Sequence[str | Path], force: bool = False) -> list[Record]:
    """Read run folders, in the order given.

    A run is named after its folder; where two folders have one name, the parent's name goes before it.

    Raises:
        InputError: no folder or one twice, a folder that is missing or no run, damaged files, or, without
            ``force``, results that cannot be compared.
    """
    if not folders:
        raise InputError("No run was given to report on; give the folder of at least one run.")
    paths = [Path(folder) for folder in folders]
    resolved = [path.resolve() for path in paths]
    for path, times in Counter(resolved).items():
        if times > 1:
            raise InputError(f"{path}: this run was given {times} times; give every run once.")
    same_name = Counter(path.name for path in resolved)
    names = [path.name if same_name[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in resolved]
    if len(set(names)) < len(names):
        names = [str(path) for path in resolved]
    records = [_load(path, name) for path, name in zip(paths, names, strict=True)]
    if not force:
        check_alike({record.name: record.result for record in records if record.result})
    return records


def _load(folder: Path, name: str) -> Record:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Give the folder of a run, as firstsight train --out makes it."
        )
    data, config = load_config(folder / "config.yaml")
    metrics = read_metrics(folder / "metrics.jsonl")
    result = None
    check_there(folder / "result.json")
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json", "the result of an evaluation", RESULT, MEND)
    if not metrics and result is None:
        raise InputError(
            f"{folder}: this run has neither a validation in metrics.jsonl nor a result.json, so there is nothing to "
            "report. Train it up to its first validation (firstsight train), or evaluate it (firstsight eval)."
        )
    return Record(name, folder, data, config, metrics, result)
