"""What a method answered, example by example, and the numbers of one line of the trial made of it.

Shapes: N examples of old classes, Q of new ones, V old classes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_array, load_arrays
from firstsight.lab.system.files import atomic_write, parse_json
from firstsight.lab.system.shape import COUNT, OBJECT, TEXT, WHOLE, finite_or_none

BINS = 15  # of the calibration error
BANDS = {"below_5": (0, 4), "5_to_20": (5, 20), "above_20": (21, math.inf)}  # training examples of an old class
_KINDS = {"right": np.bool_, "nll": np.float32, "confidence": np.float32, "answer": np.int32}
_ARRAYS = {f"{whose}_{what}": kind for whose in ("old", "new") for what, kind in _KINDS.items()}
_HEAD = {"method": TEXT, "arrival": TEXT, "shots": WHOLE, "seed": WHOLE, "part": TEXT, "seconds": COUNT}


@dataclass(frozen=True)
class Outcome:
    """One method, one arrival, one number of shots, one seed, one part ("valid" or "test").

    Answers are over old and new classes. Where nothing has come (arrival "none", 0 shots), no new one can be right, and
    its NLL is infinite.

    Attributes:
        old_right: [N] bool, in the order of the split's rows.
        old_nll: [N] float32, nats.
        old_confidence: [N] float32, probability of the answer.
        new_right, new_nll, new_confidence: [Q], the same of the queries of new classes.
        old_answer, new_answer: [N] and [Q] int32, the class answered.
        seconds: of the arrival.
    """

    method: str
    arrival: str
    shots: int
    seed: int
    part: str
    old_right: np.ndarray
    old_nll: np.ndarray
    old_confidence: np.ndarray
    new_right: np.ndarray
    new_nll: np.ndarray
    new_confidence: np.ndarray
    old_answer: np.ndarray
    new_answer: np.ndarray
    seconds: float


def numbers(
    outcome: Outcome, old_y: np.ndarray, new_y: np.ndarray, old_counts: np.ndarray, new_share: float
) -> dict[str, Any]:
    """One line of ``trial.json``, but for what its training took and at which rate.

    Accuracies are in [0, 1]; ``mixed``, ``nll`` (nats; None where infinite) and ``ece`` (15 bins of equal width) are of
    the stated mix, in which each old example weighs (1 - s) / N and each new one s / Q.

    Args:
        outcome: of the method.
        old_y, new_y: [N] and [Q] the right classes.
        old_counts: [V] training examples of each old class.
        new_share: s.
    """
    s, counts = new_share, old_counts[old_y]
    weight = np.concatenate([np.full(len(old_y), (1 - s) / len(old_y)), np.full(len(new_y), s / len(new_y))])
    right, confidence, nll = (
        np.concatenate([getattr(outcome, f"old_{name}"), getattr(outcome, f"new_{name}")]).astype(np.float64)
        for name in ("right", "confidence", "nll")
    )
    bins = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gaps = np.bincount(bins, weights=weight * (right - confidence), minlength=BINS)
    within = {name: (counts >= low) & (counts <= high) for name, (low, high) in BANDS.items()}
    old_micro, new_micro = float(outcome.old_right.mean()), float(outcome.new_right.mean())
    return {
        "method": outcome.method,
        "arrival": outcome.arrival,
        "shots": outcome.shots,
        "part": outcome.part,
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "old_micro": old_micro,
        "old_macro": _macro(outcome.old_right, old_y),
        "new_micro": new_micro,
        "new_macro": _macro(outcome.new_right, new_y),
        "mixed": (1 - s) * old_micro + s * new_micro,
        "nll": finite_or_none(float(weight @ nll)),
        "ece": float(np.abs(gaps).sum()),
        "bands": {name: float(outcome.old_right[own].mean()) if own.any() else None for name, own in within.items()},
    }


def _macro(right: np.ndarray, y: np.ndarray) -> float:
    """Mean over the classes that are asked of the share that is right."""
    classes, which = np.unique(y, return_inverse=True)
    return float((np.bincount(which, weights=right) / np.bincount(which)).mean()) if len(classes) else math.nan


def save_outcomes(path: Path, about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write outcomes and what is to be known about them as one ``.npz``, whole or not at all."""
    arrays = {f"{i}/{name}": getattr(one, name) for i, one in enumerate(outcomes) for name in _ARRAYS}
    heads = [{k: v for k, v in vars(one).items() if k not in _ARRAYS} for one in outcomes]
    told = np.frombuffer(json.dumps({"about": about, "outcomes": heads}).encode(), dtype=np.uint8)
    with atomic_write(path, "wb") as file:
        np.savez(file, told=told, **arrays)


def load_about(path: Path) -> dict[str, Any]:
    """What is to be known about a file of outcomes, which stay unread.

    Raises:
        InputError: the file is damaged.
    """
    return dict(_load(path, arrays=False)[0])


def load_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a file.

    Raises:
        InputError: the file is damaged.
    """
    return _load(path, arrays=True)[1]


def _load(path: Path, *, arrays: bool) -> tuple[dict[str, Any], list[Outcome]]:
    what, mend = "these outcomes of a trial", "Delete the file, and run the trial again."
    text = load_array(path, "told", what, mend).tobytes()
    told = parse_json(text, str(path), what, {"about": OBJECT, "outcomes": [_HEAD]}, mend)
    heads = told["outcomes"] if arrays else []
    found = load_arrays(path, [f"{i}/{name}" for i in range(len(heads)) for name in _ARRAYS], what, mend)
    outcomes = []
    for i, head in enumerate(heads):
        own: dict[str, Any] = {name: found[f"{i}/{name}"] for name in _ARRAYS}
        for name, array in own.items():
            if array.dtype != _ARRAYS[name] or array.shape != (len(own[f"{name[:3]}_right"]),):
                raise InputError(f"{path}: {name} is {array.dtype} {list(array.shape)}. {mend}")
        outcomes.append(Outcome(**{name: head[name] for name in _HEAD}, **own))
    return told["about"], outcomes
