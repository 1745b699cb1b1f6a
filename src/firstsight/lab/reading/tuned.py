"""Settings of the memories that a sweep chose for one checkpoint: how they are chosen, and how they are read again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.system.files import read_json
from firstsight.lab.system.shape import as_dict, is_finite, is_share, is_whole

WHOLE = ("size", "k", "steps")

Rows = list[dict[str, Any]]


def check_tuned(tuned: Mapping[str, Any], path: str | Path, folder: Path, checkpoint: Mapping[str, Any]) -> None:
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


def read_tuned(path: str | Path) -> dict[str, Any]:
    """Read what ``firstsight sweep memory`` wrote, checked as far as an evaluation uses it."""
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
    tuned = as_dict(tuned)
    checkpoint, chosen = as_dict(tuned.get("checkpoint")), as_dict(tuned.get("chosen"))
    faults = [] if isinstance(tuned.get("run"), str) else ["run"]
    faults += [f"checkpoint.{key}" for key in ("name", "sha256") if not isinstance(checkpoint.get(key), str)]
    faults += [] if is_whole(checkpoint.get("step")) else ["checkpoint.step"]
    weights = as_dict(chosen.get("weights"))
    swept = [name for name in ("cache", "mbpa") if name == "cache" or chosen.get(name, {}) is not None]
    for name in swept:
        given = as_dict(chosen.get(name))
        faults += [f"chosen.{name}.{key}" for key in MEMORIES[name].settings if not _sound(key, given.get(key))]
    faults += [f"chosen.weights.{name}" for name in swept if not is_share(weights.get(name))]
    both = weights.get("both")
    pair = isinstance(both, list) and len(both) == len(swept) and all(map(is_share, both)) and sum(both) <= 1
    return faults if pair or len(swept) < 2 else [*faults, "chosen.weights.both"]


def _sound(key: str, value: Any) -> bool:
    return is_whole(value, 1) if key in WHOLE else is_finite(value) and value >= 0


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
    chosen["mbpa"] |= {"beta": MEMORIES["mbpa"].settings["beta"], "steps": 1}
    chosen["weights"] |= {"mbpa": alone["mbpa_weight"], "both": [both["cache_weight"], both["mbpa_weight"]]}
    warnings = edge_warnings("MbPA with the cache", grid, both, ["k", "lr", "cache_weight", "mbpa_weight"])
    return warnings + edge_warnings("MbPA alone", solo, alone, ["mbpa_weight"])


def best_of(rows: Rows) -> dict[str, Any]:
    """The row of the lowest NLL, the first of several."""
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
