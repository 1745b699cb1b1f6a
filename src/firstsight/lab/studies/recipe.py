"""Variants x seeds x regimes as a recipe in YAML: reading it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstsight.errors import InputError
from firstsight.lab.data.corpus import SPLITS
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recipes import recipe as named_settings
from firstsight.lab.lm.run import build_model
from firstsight.lab.system.files import naming, read_yaml
from firstsight.lab.system.shape import shorten, shown

KEYS = ("data", "base", "regimes", "variants", "baseline", "seeds", "split")


@dataclass(frozen=True)
class Study:
    """A recipe as read: ``settings`` holds the Config of each (regime, variant), without a seed."""

    data: dict[str, str]
    settings: dict[tuple[str, str], Config]
    baseline: str
    seeds: list[int]
    split: str
    values: dict[str, Any]


def load_study(path: str | Path) -> Study:
    """Read and check a recipe.

    Raises:
        InputError: the file is missing or no YAML; an unknown key; settings that make no Config; no data, variants or
            seeds; a baseline that is no variant; a name that makes no folder.
    """
    values = read_recipe(path, "a study", KEYS)
    data = _named(path, "data", values.get("data"))
    for name, folder in data.items():
        if not isinstance(folder, str):
            raise InputError(f"{path}: data {name} is {shown(folder)}; expected the path of a data folder.")
    regimes = _named(path, "regimes", values.get("regimes", {"default": {}}))
    variants = _named(path, "variants", values.get("variants"))
    baseline, split = values.get("baseline"), values.get("split", "valid")
    if baseline not in list(variants):
        raise InputError(f"{path}: baseline is {shown(baseline)}; expected one of the variants, {', '.join(variants)}.")
    if split not in SPLITS:
        raise InputError(f"{path}: split is {shown(split)}; expected one of {', '.join(SPLITS)}.")
    start = base_of(path, values.get("base"))
    settings = {
        (regime, variant): config_of(
            f"{path}: variant {variant}, regime {regime}",
            start,
            settings_of(path, f"regimes {regime}", regimes[regime]),
            settings_of(path, f"variants {variant}", variants[variant]),
        )
        for regime in regimes
        for variant in variants
    }
    return Study(data, settings, baseline, seeds_of(path, values.get("seeds")), split, values)


def read_recipe(path: str | Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """The values of a recipe in YAML, by name; ``what`` says of what it is, ``keys`` which names there are.

    Raises:
        InputError: the file is missing or no YAML, names a key twice, or one that there is not.
    """
    values = read_yaml(path, f"the recipe of {what}")
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected {', '.join(keys)} by name.")
    if unknown := sorted(map(str, set(values) - set(keys))):
        raise InputError(f"{path}: unknown {shorten(', '.join(unknown))}. Known: {', '.join(keys)}.")
    return values


def base_of(path: str | Path, value: Any) -> dict[str, Any]:
    """The settings that all runs start from: those under ``base``, over those that its ``recipe`` names."""
    base = dict(settings_of(path, "base", value))
    with naming(path, "a recipe"):
        return named_settings(str(base.pop("recipe", "small"))).to_dict() | base


def _named(path: str | Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path}: {key} is {shown(value)}; expected at least one, by name.")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.,+=-]*", name):
            raise InputError(
                f"{path}: {key} has the name {shown(name)}, which is to name a folder; expected letters, digits and "
                "any of _ . , + = -, in quotes if YAML takes it for a number or yes or no."
            )
    return value


def settings_of(path: str | Path, where: str, value: Any) -> Mapping[str, Any]:
    """Settings by name as the recipe has them at ``where``; none where it has nothing."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where} is {shown(value)}; expected settings by name.")
    if "seed" in value:
        raise InputError(f"{path}: {where} sets seed; the seeds of a study stand under seeds.")
    return value


def config_of(where: str, *layers: Mapping[str, Any]) -> Config:
    """The Config of some settings, later ones over earlier; an InputError says ``where`` they make none."""
    merged = {name: value for layer in layers for name, value in layer.items()}
    try:
        config = Config.from_dict(merged)
        with torch.device("meta"):  # what only the model itself refuses, a tied width say
            build_model(2, config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return config


def seeds_of(path: str | Path, seeds: Any) -> list[int]:
    """The seeds of a recipe: different whole numbers."""
    sound = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    if not sound or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seeds is {shown(seeds)}; expected different whole numbers from 0, like [0, 1, 2].")
    return list(seeds)
