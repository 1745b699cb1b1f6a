"""Variants x seeds x regimes as one recipe: reading it, and the jobs that it means.

Each job is an ordinary run folder. What is done stays done: a recipe with more variants or seeds adds only what is new.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from firstsight.errors import InputError
from firstsight.lab.data import open_corpus
from firstsight.lab.data.corpus import SPLITS
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.recipes import recipe as named_settings
from firstsight.lab.lm.run import build_model
from firstsight.lab.report.runs import read_metrics
from firstsight.lab.report.sights import sight_curve
from firstsight.lab.system.files import read_json

# Of a run that is there already these may differ: they decide nothing about its numbers.
MAY_CHANGE = ("checkpoint_every", "checkpoint_minutes")
KEYS = ("data", "base", "regimes", "variants", "baseline", "seeds", "split")
OUTCOME = "outcome.json"  # how training ended, written before the evaluation: a diverged run is not tried again


@dataclass(frozen=True)
class Study:
    """A recipe as read: ``settings`` holds the Config of each (regime, variant), without a seed."""

    data: dict[str, str]
    settings: dict[tuple[str, str], Config]
    baseline: str
    seeds: list[int]
    split: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a study; ``folder`` is its run folder."""

    data: str
    regime: str
    variant: str
    seed: int
    config: Config
    source: str
    folder: Path
    split: str

    @property
    def title(self) -> str:
        """``wikitext-2 default softmax seed 0``."""
        return f"{self.data} {self.regime} {self.variant} seed {self.seed}"

    @property
    def tokens(self) -> int:
        """Tokens it trains on if nothing ends it before its last step."""
        return self.config.steps * self.config.batch * self.config.length


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal names without a word; two variants of one name are a mistake."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_study(path: str | Path) -> Study:
    """Read and check a recipe.

    Raises:
        InputError: the file is missing or no YAML; an unknown key; settings that make no Config; no data, variants or
            seeds; a baseline that is no variant; a name that makes no folder.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Expected the recipe of a study, in YAML.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected YAML in UTF-8, but: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected {', '.join(KEYS)} by name.")
    if unknown := sorted(map(str, set(values) - set(KEYS))):
        raise InputError(f"{path}: unknown {', '.join(unknown)}. Known: {', '.join(KEYS)}.")
    data = _named(path, "data", values.get("data"))
    for name, folder in data.items():
        if not isinstance(folder, str):
            raise InputError(f"{path}: data {name} is {folder!r}; expected the path of a data folder.")
    regimes = _named(path, "regimes", values.get("regimes", {"default": {}}))
    variants = _named(path, "variants", values.get("variants"))
    baseline, split = values.get("baseline"), values.get("split", "valid")
    if baseline not in list(variants):
        raise InputError(f"{path}: baseline is {baseline!r}; expected one of the variants, {', '.join(variants)}.")
    if split not in SPLITS:
        raise InputError(f"{path}: split is {split!r}; expected one of {', '.join(SPLITS)}.")
    base = dict(_settings(path, "base", values.get("base")))
    start = named_settings(str(base.pop("recipe", "small"))).to_dict() | base
    settings = {
        (regime, variant): _config(
            f"{path}: variant {variant}, regime {regime}",
            start,
            _settings(path, f"regimes {regime}", regimes[regime]),
            _settings(path, f"variants {variant}", variants[variant]),
        )
        for regime in regimes
        for variant in variants
    }
    return Study(data, settings, baseline, _seeds(path, values.get("seeds")), split, values)


def _named(path: str | Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path}: {key} is {value!r}; expected at least one, by name.")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.,+=-]*", name):
            raise InputError(
                f"{path}: {key} has the name {name!r}, which is to name a folder; expected text of letters, digits and "
                "any of _ . , + = -, in quotes if YAML takes it for a number or yes or no."
            )
    return value


def _settings(path: str | Path, where: str, value: Any) -> Mapping[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where} is {value!r}; expected settings by name.")
    if "seed" in value:
        raise InputError(f"{path}: {where} sets seed; the seeds of a study stand under seeds.")
    return value


def _config(where: str, *layers: Mapping[str, Any]) -> Config:
    merged = {name: value for layer in layers for name, value in layer.items()}
    try:
        config = Config.from_dict(merged)
        with torch.device("meta"):  # what only the model itself refuses, a tied width say
            build_model(2, config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return config


def _seeds(path: str | Path, seeds: Any) -> list[int]:
    sound = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not sound or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seeds is {seeds!r}; expected different whole numbers from 0, like [0, 1, 2].")
    return list(seeds)


def make_jobs(study: Study, out: Path) -> list[Job]:
    """All jobs, seed by seed, so that whole comparisons come first; within a seed data, regime, variant."""
    return [
        Job(data, regime, variant, seed, config.replace(seed=seed), source, folder, study.split)
        for seed in study.seeds
        for data, source in study.data.items()
        for (regime, variant), config in study.settings.items()
        for folder in [out / "runs" / data / regime / variant / str(seed)]
    ]


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse, before anything runs, data that is missing and run folders that hold something else.

    Raises:
        InputError: a data folder that is missing or damaged, or a run trained with other settings or on other data.
    """
    vocabularies = {source: open_corpus(source).vocabulary.hash for source in {job.source for job in jobs}}
    for job in jobs:
        if (job.folder / "config.yaml").exists():
            _check_same(job)
        if (result := read_result(job)) and result.get("vocabulary_hash") != vocabularies[job.source]:
            raise InputError(
                f"{job.folder} was trained with another vocabulary than {job.source} has now. Delete that run, or give "
                "--out another folder."
            )


def _check_same(job: Job) -> None:
    """Unlike a run that is resumed by hand, one of a study may not change its end: all see equally many tokens."""
    source, saved = load_config(job.folder / "config.yaml")
    wanted = {**job.config.to_dict(), "data": str(Path(job.source).resolve())}
    had = {**saved.to_dict(), "data": source}
    if changed := [name for name in wanted if name not in MAY_CHANGE and had[name] != wanted[name]]:
        what = "; ".join(f"{name} was {had[name]}, now {wanted[name]}" for name in changed)
        raise InputError(
            f"{job.folder} was made with other settings than the recipe has: {what}. Delete that folder, give the "
            "variant or regime another name, or --out another folder."
        )


def read_result(job: Job) -> dict[str, Any] | None:
    """The run's ``result.json`` if it is there and of the study's split."""
    path = job.folder / "result.json"
    result = read_json(path, "the result of an evaluation") if path.exists() else None
    return result if isinstance(result, dict) and result.get("split") == job.split else None


def read_outcome(job: Job) -> dict[str, Any]:
    """How training ended: an ``Outcome``'s values, or reason "diverged" and a message; empty while it has not."""
    path = job.folder / OUTCOME
    return read_json(path, "how training ended") if path.exists() else {}


def is_finished(job: Job) -> bool:
    """Whether nothing is left to do: evaluated, or known to diverge."""
    return read_result(job) is not None or read_outcome(job).get("reason") == "diverged"


def record(job: Job) -> dict[str, Any]:
    """What ``study.json`` holds of a job; ``sights`` are means over the whole training."""
    result, outcome = read_result(job), read_outcome(job)
    metrics = read_metrics(job.folder / "metrics.jsonl") if (job.folder / "metrics.jsonl").exists() else []
    diverged = outcome.get("reason") == "diverged" or (result is not None and result["perplexity"] is None)
    last = metrics[-1] if metrics else {}
    found = result if result and not diverged else {}
    sights = sight_curve(metrics, source=str(job.folder / "metrics.jsonl")) if found else []
    return {
        "data": job.data,
        "regime": job.regime,
        "variant": job.variant,
        "seed": job.seed,
        "state": "diverged" if diverged else "done" if result else "waiting",
        "diverged": diverged,
        "perplexity": found.get("perplexity"),
        "bands": found.get("bands", []),
        "sights": [dict(zip(("seen", "tokens", "nll"), one, strict=True)) for one in sights],
        "tokens": outcome.get("tokens", last.get("tokens")),
        "seconds": outcome.get("seconds", last.get("seconds")),
        "git_commit": found.get("git_commit"),
        "run": str(job.folder),
    }
