"""Made-up trials: methods whose answers are drawn, and everything that follows from them."""

import copy
import functools
from dataclasses import dataclass

import numpy as np

from firstsight.lab.classify.judgement.advice import advise
from firstsight.lab.classify.judgement.choose import choose
from firstsight.lab.classify.judgement.compare import compare
from firstsight.lab.classify.judgement.paste import paste
from firstsight.lab.classify.outcome import Outcome
from firstsight.lab.classify.settings import SHOTS, Trial

OURS = {
    "sight": "HebbianSoftmax",
    "paper": 'HebbianSoftmax, rule="paper"',
    "sight-adjusted": "HebbianSoftmax, logit adjustment",
}
RIVALS = {
    "softmax": "linear softmax",
    "softmax-adjusted": "softmax, logit adjustment",
    "means": "class means",
    "knn": "nearest neighbours",
    "logistic": "logistic regression",
}
TEXTS = ["Typhoid fever & <script>alert(1)</script>", "Enteric\nfever", "x" * 1000]
UNTRAINED = ("means", "knn", "logistic")
RATES = {"means": 0.0, "knn": 5, "logistic": 100}


@dataclass(frozen=True)
class World:
    """Classes and queries: a part of V old and U new classes, each query with a difficulty in [0, 1)."""

    old_y: np.ndarray
    new_y: np.ndarray
    old_counts: np.ndarray
    old_hard: np.ndarray
    new_hard: np.ndarray

    def answers(self, old: float, new: float, rng, agreement: float = 0.9):
        """Two arrays of bool: right with these chances, mostly where the query is easy, so that methods agree."""
        found = []
        for hard, chance in ((self.old_hard, old), (self.new_hard, new)):
            own = np.where(rng.random(len(hard)) < agreement, hard, rng.random(len(hard)))
            found.append(own < chance)
        return found


def make_world(rng, V=300, U=60, per_new=10) -> World:
    """Old classes with 1 to a few dozen examples; queries of a class are about as hard."""
    counts = np.clip((rng.pareto(0.9, V) * 4 + 1).astype(int), 1, 300)
    old_y = np.repeat(np.arange(V), np.clip(counts // 4, 1, 40))
    new_y = np.repeat(np.arange(V, V + U), per_new)
    hard = rng.random(V + U)
    spread = [np.clip(0.5 * hard[y] + 0.5 * rng.random(len(y)), 0, 0.999) for y in (old_y, new_y)]
    rank = [np.argsort(np.argsort(h)) / len(h) for h in spread]  # uniform again
    return World(old_y, new_y, counts, *rank)


def make_outcome(world, rng, method, arrival, shots, seed, part, old, new) -> Outcome:
    """Answers of a method that is right on such shares of old and new."""
    right_old, right_new = world.answers(old, new, rng)
    V = len(world.old_counts)
    answers = [
        np.where(right, y, rng.integers(0, V, len(y))).astype(np.int32)
        for right, y in ((right_old, world.old_y), (right_new, world.new_y))
    ]
    sure = [np.where(right, 0.8, 0.45).astype(np.float32) for right in (right_old, right_new)]
    nll = [np.where(right, 0.3, 3.0).astype(np.float32) for right in (right_old, right_new)]
    seconds = 0.002 if arrival == "write" else 0.4 if arrival == "replay" else 0.003
    return Outcome(
        method,
        arrival,
        shots,
        seed,
        part,
        right_old,
        nll[0],
        sure[0],
        right_new,
        nll[1],
        sure[1],
        answers[0],
        answers[1],
        seconds,
    )


def line_of(world, outcome: Outcome, share: float, rate: float | None = 0.03) -> dict:
    """A line of ``trial.json``."""
    old, new = outcome.old_right.mean(), outcome.new_right.mean()
    counts = world.old_counts[world.old_y]
    bands = {"below_5": counts < 5, "5_to_20": (counts >= 5) & (counts <= 20), "above_20": counts > 20}
    macro = [np.mean([right[y == c].mean() for c in np.unique(y)]) for right, y in
             ((outcome.old_right, world.old_y), (outcome.new_right, world.new_y))]  # fmt: skip
    nothing = outcome.arrival == "none"
    return {
        "method": outcome.method,
        "arrival": outcome.arrival,
        "shots": outcome.shots,
        "part": outcome.part,
        "seed": outcome.seed,
        "rate": rate,
        "seconds_train": 0.0 if outcome.method in ("means", "knn") else 21.5 + outcome.seed,
        "seconds": outcome.seconds,
        "old_micro": float(old),
        "old_macro": float(macro[0]),
        "new_micro": 0.0 if nothing else float(new),
        "new_macro": 0.0 if nothing else float(macro[1]),
        "mixed": float((1 - share) * old + share * (0 if nothing else new)),
        "nll": None if nothing else float((1 - share) * outcome.old_nll.mean() + share * outcome.new_nll.mean()),
        "ece": 0.041,
        "bands": {
            name: float(outcome.old_right[which].mean()) if which.any() else None for name, which in bands.items()
        },
    }


# method, arrival -> (accuracy on old, on new with one example, gain on new with each doubling)
LEVELS = {
    ("sight", "write"): (0.800, 0.42, 0.08),
    ("sight", "epoch"): (0.806, 0.45, 0.08),
    ("paper", "write"): (0.740, 0.30, 0.05),
    ("sight-adjusted", "write"): (0.786, 0.44, 0.08),
    ("sight-adjusted", "epoch"): (0.792, 0.46, 0.08),
    ("softmax", "imprinting"): (0.795, 0.30, 0.08),
    ("softmax", "replay"): (0.770, 0.40, 0.07),
    ("softmax", "epoch"): (0.800, 0.38, 0.09),
    ("softmax-adjusted", "imprinting"): (0.780, 0.33, 0.08),
    ("softmax-adjusted", "epoch"): (0.790, 0.41, 0.09),
    ("means", "added"): (0.690, 0.35, 0.09),
    ("knn", "added"): (0.730, 0.33, 0.07),
    ("logistic", "imprinting"): (0.801, 0.34, 0.07),
    ("logistic", "replay"): (0.780, 0.40, 0.06),
}


def fake_trial(levels=LEVELS, *, seeds=3, share=0.1, shots=5, file="things.npz") -> dict:
    """The content of a ``trial.json``, whole; it may be changed."""
    return copy.deepcopy(_made(tuple(levels.items()), seeds, share, shots, file))


@functools.cache
def _made(items, seeds, share, shots, file) -> dict:
    levels = dict(items)
    rng = np.random.default_rng(0)
    worlds = {part: make_world(rng) for part in ("valid", "test")}
    names = list(dict.fromkeys(method for method, _ in levels))
    outcomes, lines = {}, []
    for (method, arrival), (old, new, gain) in levels.items():
        for seed in range(1 if method in UNTRAINED else seeds):
            for part, world in worlds.items():
                for k in SHOTS:
                    value = min(0.97, new + gain * np.log2(k))
                    one = make_outcome(world, rng, method, arrival, k, seed, part, old - 0.002 * np.log2(k), value)
                    outcomes.setdefault((method, arrival, k, part), []).append(one)
                    lines.append(line_of(world, one, share, RATES.get(method, 0.03)))
    for method in names:
        for seed in range(1 if method in UNTRAINED else seeds):
            old = max(levels[key][0] for key in levels if key[0] == method) + 0.006
            one = make_outcome(worlds["test"], rng, method, "none", 0, seed, "test", old, 0.0)
            lines.append(line_of(worlds["test"], one, share, RATES.get(method, 0.03)))
    choice = choose(lines, set(OURS), shots)
    world = worlds["test"]
    sides = [outcomes[choice[side]["method"], choice[side]["arrival"], shots, "test"] for side in ("ours", "rival")]
    comparison = compare(*sides, world.old_y, world.new_y, world.old_counts, share, draws=300)
    title = {**OURS, **RIVALS}
    trial = {
        "data": {
            "rows": 5123, "of_file": 5130, "classes": 420, "features": 384, "below_5": 90, "5_to_20": 110,
            "above_20": 40, "duplicates": {"rows": 31, "across": 4}, "constant_vectors": 0, "zero": 2,
            "encoder": None if str(file).endswith(".npz") else "TF-IDF of words, truncated SVD", "texts": True,
            "train": 3400, "valid": 300, "test": len(world.old_y), "old_classes": 300, "new_valid": 60, "new_test": 60,
            "notes": ["5 rows had no text and were left out."],
        },
        "source": {"file": file, "text": None, "label": None},
        "settings": {**Trial(seeds=seeds, shots=shots, new_share=share).to_dict(), "epochs": 3},
        "plan": {"seeds": seeds, "said": "3 trainings of each method, about 5 minutes."},
        "methods": [
            {"name": name, "title": title[name], "ours": name in OURS, "rates": {"write": RATES.get(name, 0.03)},
             "converged": False if name == "logistic" else None, "seconds_train": 21.5}
            for name in names
        ],
        "lines": lines,
        "choice": {**choice, "shots": shots, "new_share": share},
        "comparison": comparison,
        "confusions": [
            {"true": "A01 <b>typhoid</b>", "answered": "A02", "count": 7, "rows": [0, 1]},
            {"true": "B20", "answered": "Z21", "count": 3, "rows": [2]},
        ],
        "winner": "winner",
        "version": "0.1", "torch_version": "2.13.0", "git_commit": "abc", "machine": "a processor, 2 cores",
        "command": "firstsight try things.npz",
    }  # fmt: skip
    trial["taken"] = "rival" if comparison["verdict"] == "rival" else "ours"
    trial["advice"], trial["paste"] = advise(trial), paste(trial)
    return trial
