"""What a search is over: every point of a grid, or ranges that a sampler draws from; the paper's own, or from YAML."""

import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.studies.recipe import base_of, config_of, read_recipe, seeds_of, settings_of
from firstsight.lab.system.settings import check_seeds
from firstsight.lab.system.shape import shorten, shown

if typing.TYPE_CHECKING:
    from optuna.trial import Trial

KEYS = ("data", "base", "grid", "search", "trials", "sampler", "seeds", "prune")
SAMPLERS = ("tpe", "random")
TRIALS = 20  # of a search that does not say how many
MOST = 100_000  # points of a search: all of them are kept in memory

# Appendix A.1: 96 points. The cpu scale has the same ones, with smaller LSTMs in runs of seconds.
_PAPER: dict[str, list[Any]] = {
    "hidden": [1024, 2048, 4096],
    "layers": [1, 2],
    "dropout": [0.0, 0.1, 0.2, 0.3],
    "layer_norm": [True, False],
    "tied": [True, False],
}
SCALES = {
    "paper": (recipe("paper"), _PAPER),
    "cpu": (
        recipe("demo").replace(batch=16, length=35, steps=48, eval_every=24, checkpoint_every=24),
        _PAPER | {"hidden": [32, 64, 128]},
    ),
}

_OPTIONS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Search:
    """What is searched, checked; ``space`` holds for each setting a list of values, or low, high and maybe log, step.

    A grid has every combination once. Otherwise ``sampler`` draws ``trials`` points.
    """

    base: dict[str, Any]
    """all settings but the seed, as ``Config.to_dict`` has them; those of ``space`` are replaced"""
    space: dict[str, Any]
    sampler: str
    """grid, or one of ``SAMPLERS``"""
    trials: int
    seeds: list[int]
    """each point is trained with each of them, and judged by the mean"""
    prune: bool
    data: str | None = None
    """the data folder that its file names"""
    source: str = ""
    """that file, for messages"""

    def points(self) -> list[dict[str, Any]]:
        """The settings of each point that are decided from the start: of a grid all, of other searches none."""
        if self.sampler != "grid":
            return [{} for _ in range(self.trials)]
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]

    def config(self, settings: Mapping[str, Any], seed: int) -> Config:
        """The settings of a run of a point."""
        return Config.from_dict({**self.base, **settings, "seed": seed})

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """The settings of a trial: those it has already, else as the sampler draws them."""
        found: dict[str, Any] = {}
        for name, of in self.space.items():
            if isinstance(of, list):
                found[name] = trial.suggest_categorical(name, of)
            elif _kind(name) is int:
                found[name] = trial.suggest_int(name, **({"step": 1} | of))
            else:
                found[name] = trial.suggest_float(name, **of)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which decide whether two searches are one; ``trials`` of a search may still grow."""
        return {name: value for name, value in vars(self).items() if name not in ("data", "source")}


def paper_grid(scale: Literal["paper", "cpu"], head: str, steps: int | None, seeds: int) -> Search:
    """The 96 points of appendix A.1, at the paper's size or at one for CPUs.

    The appendix does not say with which softmax it swept; by default ours is the plain one, whose choice both models
    then share (our decision).
    """
    check_seeds(seeds)
    base, grid = SCALES[scale]
    base = base.replace(head=head, steps=base.steps if steps is None else steps)
    return _checked(f"the grid of {scale} size", base.to_dict(), grid, "grid", None, list(range(seeds)), False, None)


def load_search(path: str | Path) -> Search:
    """Read a search from YAML.

    Its keys: ``data``; ``base``, a recipe and settings; ``grid``, lists of values by setting, or ``search``, lists or
    ``{low, high, log, step}``; ``trials`` and ``sampler`` (tpe or random) of a search; ``seeds``; ``prune``, by default
    true for a search and false for a grid, all of whose points are wanted.

    Raises:
        InputError: the file is missing or no YAML; an unknown key; both grid and search, or neither; a range that is
            none; settings that make no run.
    """
    values = read_recipe(path, "a search", KEYS)
    if ("grid" in values) == ("search" in values):
        raise InputError(f"{path}: expected either grid, lists of values by setting, or search, ranges by setting.")
    kind = "grid" if "grid" in values else "search"
    space = dict(settings_of(path, kind, values[kind]))
    if not space:
        raise InputError(f"{path}: {kind} names no setting. Expected some of Config's, like lr or hidden.")
    sampler, data = values.get("sampler", "grid" if kind == "grid" else "tpe"), values.get("data")
    if sampler not in (("grid",) if kind == "grid" else SAMPLERS):
        expected = "grid, or none" if kind == "grid" else " or ".join(SAMPLERS)
        raise InputError(f"{path}: sampler is {shown(sampler)}; expected {expected}.")
    if data is not None and not isinstance(data, str):
        raise InputError(f"{path}: data is {shown(data)}; expected the path of a data folder.")
    prune = values.get("prune", kind == "search")
    if not isinstance(prune, bool):
        raise InputError(f"{path}: prune is {shown(prune)}; expected true or false.")
    if kind == "grid" and "trials" in values:
        raise InputError(f"{path}: trials belongs to a search. A grid has as many as it has points.")
    trials = None if kind == "grid" else values.get("trials", TRIALS)
    base, seeds = base_of(path, values.get("base")), seeds_of(path, values.get("seeds", [0]))
    found = _checked(str(path), base, space, sampler, trials, seeds, prune, data)
    return replace(found, source=str(path))


def _checked(
    where: str,
    base: dict[str, Any],
    space: dict[str, Any],
    sampler: str,
    trials: Any,
    seeds: list[int],
    prune: bool,
    data: str | None,
) -> Search:
    """Every single value of a search, and every point of a grid, has to make a run."""
    if trials is not None and (type(trials) is not int or not 1 <= trials <= MOST):
        raise InputError(f"{where}: trials is {shown(trials)}; expected a whole number from 1 to {MOST:,}.")
    start = {name: value for name, value in config_of(f"{where}: base", base).to_dict().items() if name != "seed"}
    for name, of in space.items():
        config_of(f"{where}: {name}", start, {name: start.get(name)})  # that there is such a setting
        if isinstance(of, list):
            _check_values(f"{where}: {name}", of)
        elif sampler == "grid" or not isinstance(of, dict):
            raise InputError(f"{where}: {name} is {shown(of)}; expected a list of values{_or_range(sampler)}.")
        else:
            _check_range(f"{where}: {name}", _kind(name), of)
    number = math.prod(map(len, space.values())) if trials is None else trials
    if number > MOST:
        raise InputError(f"{where}: this grid has {number:,} points; expected {MOST:,} at most. Leave values out.")
    search = Search(start, space, sampler, number, list(seeds), prune, data)
    if sampler == "grid":
        for point in search.points():
            config_of(f"{where}: {readable_settings(point)}", start, point)
    else:
        for name, of in space.items():
            for value in of if isinstance(of, list) else (of["low"], of["high"]):
                config_of(f"{where}: {name}={value}", start, {name: value})
    return search


def readable_settings(settings: Mapping[str, Any]) -> str:
    """``hidden=64 tied=True lr=0.00213``: the settings of a point in a line."""
    return " ".join(f"{name}={readable_value(value)}" for name, value in settings.items())


def readable_value(value: Any) -> str:
    """A number with four digits at most behind its first, all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _or_range(sampler: str) -> str:
    return "" if sampler == "grid" else ", or {low: ..., high: ...}, with log: true where the factor counts"


def _kind(name: str) -> Any:
    return typing.get_type_hints(Config)[name]


def _check_values(where: str, values: Sequence[Any]) -> None:
    if not values or any(isinstance(value, list | dict) or value is None for value in values):
        raise InputError(
            f"{where} is {shown(values)}; expected at least one value, each a number, true, false or text."
        )
    if len({(type(value) is bool, value) for value in values}) < len(values):
        raise InputError(f"{where} is {shown(values)}; expected each value once.")


def _check_range(where: str, kind: Any, of: Mapping[str, Any]) -> None:
    if kind not in (int, float):
        raise InputError(f"{where} is {shown(of)}, but this setting is no number. Expected a list of its values.")
    if unknown := sorted(map(str, set(of) - _OPTIONS)):
        raise InputError(f"{where}: unknown {shorten(', '.join(unknown))}. Known: {', '.join(sorted(_OPTIONS))}.")
    for end in ("low", "high"):
        value = of.get(end)
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            expected = "a whole number" if kind is int else "a number, like 0.001 or 1.0e-3"
            raise InputError(f"{where}: {end} is {shown(value)}; expected {expected}.")
    if not of["low"] < of["high"]:
        raise InputError(f"{where}: low is {of['low']} and high {of['high']}; expected low to be below high.")
    log, step = of.get("log", False), of.get("step")
    if not isinstance(log, bool) or (log and of["low"] <= 0):
        raise InputError(
            f"{where}: log is {shown(log)} and low {of['low']}; expected true or false, and low above 0 for it."
        )
    sound = type(step) is int or (kind is float and isinstance(step, float))
    if step is not None and (not sound or step <= 0 or log):
        raise InputError(f"{where}: step is {shown(step)}; expected a number above 0, and none beside log.")
