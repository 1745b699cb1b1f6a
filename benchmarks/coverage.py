"""How often does a trial's 95% interval leave out the truth? Simulated answers of two methods that are equally good.

Each class has a number of queries (Zipf-like, or with a heavy tail), a share of them on which the methods differ, and a
lean to one side that is zero on average over classes; trainings share half of the answers, and each leans a little of
its own. The truth is a difference of 0: a verdict is false. ``python benchmarks/coverage.py`` writes
``coverage.json``.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from common import save

from firstsight.lab.classify.judgement.compare import compare
from firstsight.lab.classify.outcome import Outcome

LEANS = {
    "alike": (0.0, 0.03),
    "mildly": (0.05, 0.15),
    "strongly": (0.2, 0.3),
}  # spread over classes, share that differs
GROUPS, TRAININGS, UNEVEN, SHARE = ((15, 15), (80, 40)), (1, 3), (0.0, 0.02), 0.1


def queries(rng: np.random.Generator, classes: int, heavy: bool) -> np.ndarray:
    """[N] the class of each query."""
    stretched = 1 + (rng.pareto(1.2, classes) if heavy else 0)
    return np.repeat(np.arange(classes), np.minimum(1 + rng.geometric(0.25, classes) * stretched, 200).astype(int))


def answered(
    rng: np.random.Generator, y: np.ndarray, kind: str, leans_S: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each training which queries ours and the rival got right."""
    spread, differ = LEANS[kind]
    lean_C = rng.normal(0, spread, y.max() + 1)
    shared = rng.random((2, len(y)))
    found = []
    for lean in leans_S:
        own, kept = rng.random((2, len(y))), rng.random(len(y)) < 0.5
        which, side = np.where(kept, shared, own)
        differs, ours = which < differ, side < np.clip(0.5 + (lean_C[y] + lean) / (2 * differ), 0, 1)
        both = rng.random(len(y)) < 0.7
        found.append((np.where(differs, ours, both), np.where(differs, ~ours, both)))
    return found


def outcome(seed: int, old: np.ndarray, new: np.ndarray) -> Outcome:
    """One that was right there."""
    parts: dict[str, np.ndarray] = {}
    for name, right in (("old", old), ("new", new)):
        zeros = np.zeros(len(right), dtype=np.float32)
        parts |= {f"{name}_right": right, f"{name}_nll": zeros, f"{name}_confidence": zeros}
        parts[f"{name}_answer"] = zeros.astype(np.int32)
    return Outcome("a", "write", 5, seed, "test", seconds=0.0, **parts)


def false_verdict(
    rng: np.random.Generator, sizes: tuple[int, int], kind: str, heavy: bool, S: int, uneven: float
) -> bool:
    """Whether a simulated pair is told apart."""
    leans_S = rng.normal(0, uneven, S)
    y = [queries(rng, classes, heavy and i == 0) for i, classes in enumerate(sizes)]
    right = [answered(rng, one, kind, leans_S) for one in y]
    sides = [[outcome(s, right[0][s][m], right[1][s][m]) for s in range(S)] for m in (0, 1)]
    counts = np.full(sizes[0], 50)
    return bool(compare(sides[0], sides[1], y[0], y[1], counts, SHARE, draws=600)["verdict"] != "none")


def main() -> int:
    """Simulate, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("coverage.json"))
    given = parser.parse_args()
    lines = []
    for number, (sizes, S, kind, heavy, uneven) in enumerate(
        itertools.product(GROUPS, TRAININGS, LEANS, (False, True), UNEVEN)
    ):
        if S == 1 and uneven:  # one training cannot tell how trainings differ, and the advice says so
            continue
        rng = np.random.default_rng(number)
        wrong = sum(false_verdict(rng, sizes, kind, heavy, S, uneven) for _ in range(given.sets))
        line = {"classes": sizes, "trainings": S, "classes differ": kind, "heavy": heavy, "uneven": uneven}
        lines.append(line | {"false": round(wrong / given.sets, 4)})
        print(lines[-1], flush=True)
    save(given.out, {"sets": given.sets, "lines": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
