"""The choice looks at the validation part alone."""

import random

import pytest

from firstsight.errors import InputError
from firstsight.lab.classify.judgement.choose import choose

OURS = {"sight", "paper"}
RATES = {("softmax", "replay"): 0.1, ("means", "added"): None}


def line(method, arrival, mixed, *, shots=5, part="valid", seed=0):
    found = {"method": method, "arrival": arrival, "mixed": mixed, "shots": shots, "part": part, "seed": seed}
    return found | {"rate": RATES.get((method, arrival), 0.03)}


LINES = [
    line("sight", "write", 0.70),
    line("sight", "write", 0.60, seed=1),
    line("paper", "write", 0.64),
    line("paper", "write", 0.64, seed=1),
    line("softmax", "imprinting", 0.5),
    line("softmax", "replay", 0.6),
    line("means", "added", 0.55),
]
CHOSEN = {
    "ours": {"method": "sight", "arrival": "write", "rate": 0.03},
    "rival": {"method": "softmax", "arrival": "replay", "rate": 0.1},
}


def test_the_best_mean_over_trainings():
    assert choose(LINES, OURS, 5) == CHOSEN
    shuffled = random.Random(0).sample(LINES, len(LINES))
    assert choose(shuffled, OURS, 5) == CHOSEN


@pytest.mark.parametrize(
    "more",
    [
        line("means", "added", 0.99, part="test"),
        line("means", "added", 0.99, shots=10),
        line("softmax", "epoch", 0.99),
        line("paper", "epoch", 0.99),
        line("paper", "none", 0.99, shots=0),
    ],
)
def test_nothing_else_counts(more):
    assert choose([*LINES, more], OURS, 5) == CHOSEN


def test_of_equals_the_first():
    tie = [*LINES, line("knn", "added", 0.6)]
    assert choose(tie, OURS, 5) == CHOSEN
    assert choose(tie[::-1], OURS, 5)["rival"] == {"method": "knn", "arrival": "added", "rate": 0.03}


def test_both_sides_are_needed():
    with pytest.raises(InputError, match="no result of rivals on the validation part with 5 examples"):
        choose(LINES[:4], OURS, 5)
    with pytest.raises(InputError, match="no result of methods that write"):
        choose(LINES, OURS, 2)
