"""Settings of the memories that a sweep chose for one checkpoint: how they are chosen, and how they are read again."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.lab.data.bands import BANDS
from firstsight.lab.lm.evaluation import exp_or_inf
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.system.files import read_json
from firstsight.lab.system.shape import as_dict, is_finite, is_share, is_whole
from firstsight.memory import fit_weights

MEASURED = ("nll", "perplexity", "best_weight")  # what a row of a grid found, beside where it stands
FEW = 200  # words of a band below which its weights would follow chance

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
    swept = [name for name in MEMORIES if chosen.get(name) is not None]
    for name in swept:
        given, usual = as_dict(chosen.get(name)), MEMORIES[name].settings
        faults += [f"chosen.{name}.{key}" for key, value in usual.items() if not _sound(value, given.get(key))]
    mixtures = chosen.get("mixtures")
    every = [as_dict(as_dict(one).get("weights")) for one in mixtures] if isinstance(mixtures, list) else []
    known = {frozenset(weights) for weights in every if _are_weights(weights)}
    if not swept or any(frozenset(some) not in known for some in subsets(swept)):
        faults.append("chosen.mixtures")
    banded = chosen.get("by_band")
    bands = banded if isinstance(banded, list) else []
    if banded is not None and (len(bands) != len(BANDS) or not all(_are_weights(as_dict(one)) for one in bands)):
        faults.append("chosen.by_band")
    return faults


def _are_weights(weights: Mapping[str, Any]) -> bool:
    return bool(weights) and all(map(is_share, weights.values())) and sum(weights.values()) <= 1 + 1e-9


def _sound(usual: Any, value: Any) -> bool:
    if isinstance(usual, str):
        return isinstance(value, str)
    return is_whole(value, 1) if isinstance(usual, int) else is_finite(value) and value >= 0


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All choices of one or more of these names, in their order."""
    return [some for size in range(1, len(names) + 1) for some in combinations(names, size)]


def choose_mixtures(nll: Mapping[str, np.ndarray], band_N: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """The best weights of every mixture of the model with some memories, and what to warn of.

    Args:
        nll: by name [N] of the model and of each memory.
        band_N: [N] of the word before each, see ``bands_before``.

    Returns:
        ``mixtures``: of each choice of memories ``{"weights", "nll", "perplexity", "residual"}``, the weights by name;
        ``by_band``: of each band those of all memories, where its words are too few for a choice those of all words;
        and memories that get no weight.
    """
    names = [name for name in nll if name != "model"]
    mixtures = [fitted(nll, some) for some in subsets(names)]
    whole = mixtures[-1]["weights"]
    by_band = []
    for band in range(len(BANDS)):
        here_N = band_N == band
        few = int(here_N.sum()) < FEW
        by_band.append(whole if few else fitted({n: one[here_N] for n, one in nll.items()}, names)["weights"])
    idle = [MEMORIES[name].label for name in names if not dict(mixtures[names.index(name)]["weights"])[name]]
    warnings = [f"{label} helps by no weight: in a mixture of the model and it its weight is 0" for label in idle]
    return {"mixtures": mixtures, "by_band": by_band}, warnings


def fitted(nll: Mapping[str, np.ndarray], some: Sequence[str]) -> dict[str, Any]:
    """The best weights of the model and some memories, by name, and what they give: from the NLLs [N] by name."""
    found = fit_weights(torch.from_numpy(np.stack([nll[name] for name in ("model", *some)]).astype(np.float64)))
    weights = dict(zip(some, found.weights[1:].tolist(), strict=True))
    return {"weights": weights, "nll": found.nll, "perplexity": exp_or_inf(found.nll), "residual": found.residual}


def choose_cache(grid: Rows) -> tuple[dict[str, Any], list[str]]:
    """The settings at the best point of the cache's grid, and what to warn of."""
    best = best_of(grid)
    return {"size": best["size"], "theta": best["theta"]}, edge_warnings("cache", grid, best, ["theta", "size"])


def choose_mbpa(grid: Rows, size: int) -> tuple[dict[str, Any], list[str]]:
    """The best one-step setting, and what to warn of.

    That is k and lr of the best point at which MbPA has a weight, so that they mean something where it does not help.
    """
    best = best_of([row for row in grid if row["mbpa_weight"]])
    chosen = {"size": size, "k": best["k"], "lr": best["lr"], "beta": MEMORIES["mbpa"].settings["beta"], "steps": 1}
    return chosen, edge_warnings("MbPA with the cache", grid, best, ["k", "lr"])


def best_of(rows: Rows) -> dict[str, Any]:
    """The row of the lowest NLL, the first of several."""
    finite = [row for row in rows if row["nll"] is not None]
    if not finite:
        raise InputError("no setting gave a finite likelihood on validation; has the model diverged?")
    return min(finite, key=lambda row: row["nll"])


def edge_warnings(what: str, rows: Rows, best: dict[str, Any], axes: Sequence[str]) -> list[str]:
    """What to warn of where the best row lies on the edge of its grid: the optimum may lie beyond.

    An axis along which nothing changes has no edge, and neither has one of a single value.
    """
    warnings = []
    for name in axes:
        fixed = [other for other in best if other not in (name, *MEASURED)]
        line = {row["nll"] for row in rows if all(row[other] == best[other] for other in fixed)}
        values = {row[name] for row in rows}
        if best[name] not in (min(values), max(values)) or len(line) < 2:
            continue
        end, more = ("largest", "larger") if best[name] == max(values) else ("smallest", "smaller")
        warnings.append(
            f"{what}: the best {name.replace('_', ' ')}, {best[name]:g}, is the {end} of its grid: a {more} one may be "
            "better still"
        )
    return warnings
