"""What a figure of curricula shows: means and bands over seeds, and runs held against each other seed by seed.

Shapes: R seeds, K places on an axis.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.lab.curriculum.binding import PRESENTATIONS
from firstsight.lab.curriculum.loop import MILESTONES

Runs = Mapping[int, Mapping[str, Any]]
"""Results of ``run_curriculum`` by seed, of one variant."""

Floats = npt.NDArray[np.float64]


def classes_at(result: Mapping[str, Any], steps: Sequence[int]) -> list[int]:
    """Classes introduced by each of these steps; after a run's end those it had then."""
    additions = [record for record in result["records"] if record["event"] == "addition"]
    classes = [result["settings"]["start"], *(record["classes"] for record in additions)]
    at = [record["step"] for record in additions]
    return [classes[bisect_right(at, step)] for step in steps]


def band(values_RK: Sequence[Sequence[float]] | Floats) -> dict[str, list[float | None]]:
    """Mean and sample standard deviation (n - 1) at each place; NaN is left out, None is of too few values."""
    mean: list[float | None] = []
    deviation: list[float | None] = []
    for values in np.asarray(values_RK, dtype=np.float64).T:
        kept = [float(value) for value in values if not math.isnan(value)]
        mean.append(_short(statistics.fmean(kept)) if kept else None)
        deviation.append(_short(statistics.stdev(kept)) if len(kept) > 1 else None)
    return {"mean": mean, "deviation": deviation}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def new_class_accuracy(lines: Mapping[str, Runs]) -> dict[str, dict[int, list[float | None]]]:
    """By line and seed: accuracy on the newest classes 1, 2, 5, 10 and 20 presentations after they came.

    Of each seed the mean over the additions that *all* lines with this seed have brought so far: they are the same
    classes. None where there is no such addition.
    """
    found: dict[str, dict[int, list[float | None]]] = {name: {} for name in lines}
    for seed in sorted({seed for runs in lines.values() for seed in runs}):
        bound = {name: _bound(runs[seed]) for name, runs in lines.items() if seed in runs}
        common = set.intersection(*(set(one) for one in bound.values()))
        for name, one in bound.items():
            means: list[float | None] = []
            for k in PRESENTATIONS:
                values = [one[at] for at in sorted(common) if at[1] == k]
                means.append(_short(statistics.fmean(values)) if values else None)
            found[name][seed] = means
    return found


def _bound(result: Mapping[str, Any]) -> dict[tuple[int, int], float]:
    records = (record for record in result["records"] if record["event"] == "bound")
    return {(record["first"], record["presentations"]): record["accuracy"] for record in records}


def oldest_accuracy(runs: Runs, among: str = "accuracy") -> dict[int, list[float | None]]:
    """By seed: accuracy on the classes of the start, before the first addition and as 100, 200, 400 are reached.

    ``among`` is "accuracy", against all classes, or "among_themselves".
    """
    found = {}
    for seed, result in runs.items():
        start = result["settings"]["start"]
        records = {r["classes"]: r[among] for r in result["records"] if r["event"] == "oldest"}
        # A milestone that is no start plus additions is passed by the first number of classes beyond it.
        passed = [min((n for n in records if n >= milestone), default=None) for milestone in (start, *MILESTONES)]
        found[seed] = [None if n is None else _short(records[n]) for n in passed]
    return found


def as_rows(values: Mapping[int, Sequence[float | None]]) -> Floats:
    """[R, K], NaN for None."""
    return np.array(list(values.values()), dtype=np.float64)


def ratios(base: Runs, other: Runs) -> dict[str, dict[str, Any]]:
    """Steps of ``other`` over steps of ``base`` to each milestone, seed by seed: below 1 ``other`` is faster.

    Returns:
        By milestone: ``seeds``, a ratio each, None if either did not get there; ``both``, ``only_base``,
        ``only_other`` and ``neither``, how many seeds got there; ``median``, ``low`` and ``high``. They rank a
        seed that ``other`` alone did not reach above all ratios, one that ``base`` alone did not reach below all, and
        leave out those that neither did; None where such a seed stands at that place, or nothing is left.
    """
    found = {}
    seeds = [seed for seed in base if seed in other]
    for milestone in map(str, MILESTONES):
        pairs = {seed: (base[seed]["steps_to"][milestone], other[seed]["steps_to"][milestone]) for seed in seeds}
        by_seed = {seed: _ratio(*pair) for seed, pair in pairs.items()}
        ranked = sorted(ratio for ratio in by_seed.values() if not math.isnan(ratio))
        reached = [(b is not None, o is not None) for b, o in pairs.values()]
        found[milestone] = {
            "seeds": {str(seed): _finite(ratio) for seed, ratio in by_seed.items()},
            "both": reached.count((True, True)),
            "only_base": reached.count((True, False)),
            "only_other": reached.count((False, True)),
            "neither": reached.count((False, False)),
            "median": _finite(statistics.median(ranked)) if ranked else None,
            "low": _finite(ranked[0]) if ranked else None,
            "high": _finite(ranked[-1]) if ranked else None,
        }
    return found


def _ratio(base: int | None, other: int | None) -> float:
    """NaN where nothing can be said: neither got there, or both from the start."""
    if base is None:
        return math.nan if other is None else -math.inf
    if other is None:
        return math.inf
    return other / base if base else math.nan


def _finite(value: float) -> float | None:
    return _short(value) if math.isfinite(value) else None


def median_steps(runs: Runs, milestone: int) -> float | None:
    """The median over seeds of the steps to so many classes; None if half of the seeds or more did not get there."""
    steps = [result["steps_to"][str(milestone)] for result in runs.values()]
    if not steps:
        return None
    found = statistics.median(math.inf if step is None else step for step in steps)
    return found if math.isfinite(found) else None
