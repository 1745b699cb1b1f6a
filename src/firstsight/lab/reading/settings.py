"""Settings of the memories at test time: the paper's, or those that a sweep chose for one checkpoint."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from firstsight.errors import InputError
from firstsight.lab.lm.run import Trained
from firstsight.lab.system.files import read_json, sha256
from firstsight.memory import MbPA, NeuralCache
from firstsight.memory.mixture import CACHE_WEIGHT, MBPA_WEIGHT

CACHE: dict[str, Any] = {"size": 10_000, "theta": 0.3}
MBPA: dict[str, Any] = {"size": 10_000, "k": 1024, "lr": 0.3, "beta": 0.5, "steps": 1}
WEIGHTS: dict[str, Any] = {"cache": CACHE_WEIGHT, "mbpa": MBPA_WEIGHT, "both": [CACHE_WEIGHT, MBPA_WEIGHT]}
CHOICES = {"cache": ("cache",), "mbpa": ("mbpa",), "cache,mbpa": ("cache", "mbpa")}
WHOLE = ("size", "k", "steps")

# The grids of appendix A.2, but for the rates: of these the paper gives only its choice.
THETAS = (0.1, 0.2, 0.3)
SIZES = (1000, 5000, 8000, 9000, 10_000)
CACHE_WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
KS = (512, 1024)
LRS = (0.1, 0.3, 1.0, 3.0)
MBPA_WEIGHTS = (0.02, 0.04, 0.06, 0.08, 0.1)

Rows = list[dict[str, Any]]


class Variant(NamedTuple):
    """A mixture: what it is called, and the weight of each memory, 0 for one that is not in it."""

    name: str
    cache: float
    mbpa: float


class Settings(NamedTuple):
    """What an evaluation with memories needs to know."""

    cache: dict[str, Any] | None
    """arguments of :class:`firstsight.memory.NeuralCache`"""
    mbpa: dict[str, Any] | None
    """arguments of :class:`firstsight.memory.MbPA`"""
    variants: list[Variant]
    """mixtures to report; the last is the whole one"""

    def memories(self) -> dict[str, NeuralCache | MbPA]:
        """The memories by name, empty.

        Raises:
            InputError: a setting is outside its range.
        """
        memories: dict[str, NeuralCache | MbPA] = {}
        if self.cache is not None:
            memories["cache"] = NeuralCache(**self.cache)
        if self.mbpa is not None:
            memories["mbpa"] = MbPA(**self.mbpa)
        return memories


def choose_settings(memory: str, tuned: Mapping[str, Any] | None = None, source: str = "") -> Settings:
    """The settings of the memories named, the paper's without a tuned file.

    Each mixture has weights of its own in a tuned file: what is best for the cache alone is too much for it where
    MbPA takes part. The paper gives one pair, which serves all.

    Args:
        memory: "cache", "mbpa" or "cache,mbpa".
        tuned: what ``read_tuned`` gave.
        source: the file that it is from, for messages.

    Raises:
        InputError: other memories, or one that the file has no settings of.
    """
    if memory not in CHOICES:
        raise InputError(f"--memory is {memory!r}; expected one of cache, mbpa and cache,mbpa.")
    names = CHOICES[memory]
    chosen = {"cache": CACHE, "mbpa": MBPA, "weights": WEIGHTS} if tuned is None else tuned["chosen"]
    if "mbpa" in names and chosen["mbpa"] is None:
        raise InputError(
            f"{source} holds no settings of MbPA: its sweep was made with --no-mbpa. Use it with --memory cache, or "
            "sweep again without that flag."
        )
    weights = chosen["weights"]
    variants = [Variant("model", 0.0, 0.0)]
    variants += [Variant("+ cache", weights["cache"], 0.0)] if "cache" in names else []
    variants += [Variant("+ MbPA", 0.0, weights["mbpa"])] if "mbpa" in names else []
    variants += [Variant("+ cache + MbPA", *weights["both"])] if len(names) == 2 else []
    known = {name: {key: chosen[name][key] for key in keys} for name, keys in _KEYS.items() if name in names}
    return Settings(known.get("cache"), known.get("mbpa"), variants)


_KEYS = {"cache": CACHE, "mbpa": MBPA}


def checkpoint_of(folder: Path, trained: Trained) -> dict[str, Any]:
    """Which weights a run was opened with: ``{"name", "step", "sha256"}``, the last of the checkpoint's file."""
    path = folder / "checkpoints" / f"{trained.checkpoint}.pt"
    return {"name": trained.checkpoint, "step": trained.step, "sha256": sha256(path)}


def check_tuned(tuned: Mapping[str, Any], path: Path, folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Raise InputError if a tuned file is of other weights than ``checkpoint`` of the run ``folder``."""
    theirs = tuned["checkpoint"]
    if theirs["sha256"] != checkpoint["sha256"]:
        flag = "" if checkpoint["name"] == "best" else f" --checkpoint {checkpoint['name']}"
        raise InputError(
            f"{path} was tuned for the run {tuned['run']}, checkpoint {theirs['name']} of step {theirs['step']}, and "
            f"not for {folder}, checkpoint {checkpoint['name']} of step {checkpoint['step']}, whose activations are "
            f"others. Tune for that with: firstsight sweep memory {folder}{flag}. Or leave --tuned out for the paper's "
            "settings."
        )


def read_tuned(path: Path) -> dict[str, Any]:
    """Read what ``firstsight sweep memory`` wrote, checked as far as an evaluation uses it.

    Raises:
        InputError: it is missing, damaged, or lacks a value or holds one of another kind.
    """
    tuned = read_json(path, "the result of firstsight sweep memory")
    faults = _faults(tuned)
    if faults:
        raise InputError(
            f"{path}: these values are missing or of another kind: {', '.join(faults)}. Expected the file that "
            "firstsight sweep memory RUN writes, RUN/memory/sweep.json; make it anew."
        )
    return dict(tuned)


def _faults(tuned: Any) -> list[str]:
    """The names of values that are not as they should be."""
    tuned = _dict(tuned)
    checkpoint, chosen = _dict(tuned.get("checkpoint")), _dict(tuned.get("chosen"))
    faults = [] if isinstance(tuned.get("run"), str) else ["run"]
    faults += [f"checkpoint.{key}" for key in ("name", "sha256") if not isinstance(checkpoint.get(key), str)]
    faults += [] if _is_whole(checkpoint.get("step")) else ["checkpoint.step"]
    without = "mbpa" in chosen and chosen["mbpa"] is None
    for name, keys in _KEYS.items():
        if not (name == "mbpa" and without):
            given = _dict(chosen.get(name))
            faults += [f"chosen.{name}.{key}" for key in keys if not _sound(key, given.get(key))]
    weights = _dict(chosen.get("weights"))
    faults += [] if _is_weight(weights.get("cache")) else ["chosen.weights.cache"]
    if not without:
        both = weights.get("both")
        pair = isinstance(both, list) and len(both) == 2 and all(map(_is_weight, both)) and sum(both) <= 1
        faults += [] if _is_weight(weights.get("mbpa")) else ["chosen.weights.mbpa"]
        faults += [] if pair else ["chosen.weights.both"]
    return faults


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sound(key: str, value: Any) -> bool:
    return _is_whole(value) and value > 0 if key in WHOLE else _is_number(value) and value >= 0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_weight(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def choose_cache(grid: Rows, model_nll: float) -> tuple[dict[str, Any], list[str]]:
    """The best point of the cache's grid as ``sweep.json`` has it under "chosen", and what to warn of."""
    best = best_of(grid)
    warnings = edge_warnings("cache", grid, best, ["theta", "size", "weight"])
    helps = best["nll"] < model_nll
    if not helps:
        warnings.append("the cache helps at no point of its grid: its weight is set to 0")
    chosen = {"cache": {"size": best["size"], "theta": best["theta"]}, "mbpa": None}
    return chosen | {"weights": {"cache": best["weight"] if helps else 0.0, "mbpa": None, "both": None}}, warnings


def choose_mbpa(chosen: dict[str, Any], grid: Rows) -> list[str]:
    """Put the best one-step setting into ``chosen``, and say what to warn of.

    k and lr are those of the best point at which MbPA has a weight, so that they mean something where it does not
    help. At these the weights are chosen, of both memories and of MbPA alone; 0 is among them.
    """
    best = best_of([row for row in grid if row["mbpa_weight"]])
    here = [row for row in grid if (row["k"], row["lr"]) == (best["k"], best["lr"])]
    solo = [row for row in here if not row["cache_weight"]]
    alone, both = best_of(solo), best_of(here)
    chosen["mbpa"] = {"size": chosen["cache"]["size"], "k": best["k"], "lr": best["lr"]}
    chosen["mbpa"] |= {"beta": MBPA["beta"], "steps": 1}
    chosen["weights"] |= {"mbpa": alone["mbpa_weight"], "both": [both["cache_weight"], both["mbpa_weight"]]}
    warnings = edge_warnings("MbPA with the cache", grid, both, ["k", "lr", "cache_weight", "mbpa_weight"])
    return warnings + edge_warnings("MbPA alone", solo, alone, ["mbpa_weight"])


def best_of(rows: Rows) -> dict[str, Any]:
    """The row of the lowest NLL, the first of several.

    Raises:
        InputError: none is finite.
    """
    finite = [row for row in rows if row["nll"] is not None]
    if not finite:
        raise InputError("no setting gave a finite likelihood on validation; has the model diverged?")
    return min(finite, key=lambda row: row["nll"])


def edge_warnings(what: str, rows: Rows, best: dict[str, Any], axes: Sequence[str]) -> list[str]:
    """What to warn of where the best row lies on the edge of its grid: the optimum may lie beyond.

    An axis along which nothing changes has no edge, and neither has one of a single value. A weight of 0 is no edge,
    it says that the memory does not help.
    """
    warnings = []
    for name in axes:
        fixed = [other for other in axes if other != name]
        line = {row["nll"] for row in rows if all(row[other] == best[other] for other in fixed)}
        values = {row[name] for row in rows}
        if best[name] not in (min(values), max(values)) or len(line) < 2:
            continue
        if "weight" in name and not best[name]:
            memory = "the cache" if name == "cache_weight" else "MbPA"
            warnings.append(f"{what}: the best {name.replace('_', ' ')} is 0: {memory} does not help here")
        else:
            end, more = ("largest", "larger") if best[name] == max(values) else ("smallest", "smaller")
            named = f"{what}: the best {name.replace('_', ' ')}, {best[name]:g}"
            warnings.append(f"{named}, is the {end} of its grid: a {more} one may be better still")
    return warnings
