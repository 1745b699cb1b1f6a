"""Reading run folders and results, checked so that the report never shows a wrong or unlike number."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.system.files import read_json

METRICS = ("step", "tokens", "train_loss", "valid_loss")
# Two results are alike when these fit: only then is a difference of perplexity a difference of models.
ALIKE = {"dataset": "data set", "split": "split", "vocabulary_hash": "vocabulary (vocabulary_hash)", "tokens": "tokens"}


@dataclass(frozen=True)
class Run:
    """A run folder as read. No ``metrics`` before the first validation, no ``result`` before ``firstsight eval``."""

    name: str
    folder: Path
    data: str
    config: Config
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None


def load_runs(folders: Sequence[Path], force: bool = False) -> list[Run]:
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
    runs = [_load_run(path, name) for path, name in zip(paths, names, strict=True)]
    if not force:
        check_alike({run.name: run.result for run in runs if run.result})
    return runs


def _load_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Give the folder of a run, as firstsight train --out makes it."
        )
    data, config = load_config(folder / "config.yaml")
    metrics = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    result = None
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json", "the result of an evaluation")
        check_result(result, str(folder / "result.json"))
    if not metrics and result is None:
        raise InputError(
            f"{folder}: this run has neither a validation in metrics.jsonl nor a result.json, so there is nothing to "
            "report. Train it up to its first validation (firstsight train), or evaluate it (firstsight eval)."
        )
    return Run(name, folder, data, config, metrics, result)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``. A last line cut off by a killed run is left out.

    Raises:
        InputError: any other line is not a JSON object with ``step``, ``tokens``, ``train_loss`` and ``valid_loss``.
    """
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
        if not isinstance(values, dict) or not all(_is_number(values.get(name, "missing")) for name in METRICS):
            raise InputError(f"{path}, line {number}: a number is missing or of another kind. {mend}")
        metrics.append(values)
    return metrics


def check_result(result: Any, source: str) -> None:
    """Check that ``result`` has the fields of an evaluation that tables and plots need.

    Raises:
        InputError: a field is missing or of another kind; ``source`` says where it comes from.
    """
    mend = "Evaluate the run anew with firstsight eval."
    if not isinstance(result, dict):
        raise InputError(f"{source}: expected the result of an evaluation, a JSON object. {mend}")
    for name, kind in {"dataset": str, "split": str, "tokens": int, "bands": list, "config": dict}.items():
        if not isinstance(result.get(name), kind):
            raise InputError(f"{source}: {name} is {result.get(name)!r}; expected {_KINDS[kind]}. {mend}")
    if not _is_number(result.get("perplexity", "missing")):
        raise InputError(f"{source}: perplexity is {result.get('perplexity')!r}; expected a number. {mend}")
    for band in result["bands"]:
        sound = isinstance(band, dict) and isinstance(band.get("name"), str) and isinstance(band.get("tokens"), int)
        if not sound or not _is_number(band.get("perplexity", "missing")):
            raise InputError(f"{source}: a band is {band!r}; expected its name, tokens and perplexity. {mend}")


_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "settings by name"}


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def check_alike(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that results were measured on the same tokens with the same vocabulary and bands.

    Raises:
        InputError: they were not; the message names what differs, and how to evaluate alike.
    """
    for difference in unlike(results):
        raise InputError(
            f"The results of {difference}: perplexities of other words, or of another share of unknown ones, say "
            "nothing about each other. Train both on the same data folder and evaluate both with firstsight eval on "
            "the same split; or compare them all the same with firstsight report --force, which says so on the page."
        )


def unlike(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the results differ from the first in what they were measured on: one clause for each that does."""
    found, names = [], list(results)
    for other in names[1:]:
        a, b = results[names[0]], results[other]
        differing = [(label, a.get(key), b.get(key)) for key, label in ALIKE.items() if a.get(key) != b.get(key)]
        differing += [("bands", _bands(a), _bands(b))] if _bands(a) != _bands(b) else []
        if differing:
            label, one, two = differing[0]
            found.append(f"{names[0]} and {other} cannot be compared, for they differ in {label}: {one} against {two}")
    return found


def _bands(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{band['name']} with {band['tokens']:,} tokens" for band in result["bands"])


def perplexity(value: float | None) -> float:
    """A perplexity as a result holds it; NaN for the null of an empty band."""
    return math.nan if value is None else float(value)
