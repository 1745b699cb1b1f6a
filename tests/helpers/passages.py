"""A passage as ``write_passage`` writes it, made up: tokens of every kind, one of them hostile."""

import math
from pathlib import Path
from typing import Any

from firstsight.lab.lm.config import Config
from firstsight.lab.lm.record import Record

NASTY = '<b onclick="x">&$x</script><!--\u202e\x1b'
SEEN = '<b onclick="x">&$x</script><!--\\u202e\\x1b'  # how it is shown
WORDS = ["the", "<unk>", "<eos>", NASTY, "Ärger", "it's"]
STORED = "mbpa"  # its pairs stand in the training text, where it is asked for
FIRST = 17_706


def make_passage(
    count: int = 40, words: list[str] | None = None, stored: bool = False, **settings: Any
) -> dict[str, Any]:
    """A passage of these memories' settings, by default the cache's and MbPA's."""
    used = settings or {"cache": {"size": 2000, "theta": 0.3, "weight": 0.1}, "mbpa": {"k": 64, "weight": 0.04}}
    words = words or WORDS
    n = len(words)
    steps = [0.0, 0.029, 0.03, 0.11, 0.35, 1.2, 5.0, -0.02, -0.05, -0.105, -0.36, -2.0]
    gain = {name: [steps[(i + j) % 12] for i in range(count)] for j, name in enumerate(("all", *used))}
    nll = {"model": [1.0 + i % 13 for i in range(count)]}
    guesses: dict[str, Any] = {"model": [[[(i + j) % n, 0.3 / (j + 1)] for j in range(3)] for i in range(count)]}
    neighbours: dict[str, Any] = {}
    for name in used:
        nll[name] = [None if i % 4 == 1 else 0.123456 * (1 + i % 17) for i in range(count)]
        guesses[name] = [[[(i + j) % n, 0.7 / (j + 1)] for j in range(i % 4)] for i in range(count)]
        neighbours[name] = [_pairs(i, n, stored and name == STORED) for i in range(count)]
    span = [FIRST - 100, [_word(p, n) for p in range(FIRST - 100, FIRST + count)]]
    mean = dict.fromkeys(("model", *gain), 0.125)
    return {
        "format": "firstsight passage 2",
        "run": NASTY,
        "checkpoint": {"name": "best", "step": 7},
        "split": "test",
        "split_tokens": 40_000,
        "first": FIRST,
        "settings": {"cache": None, "mbpa": None} | used,
        "activations": {"length": 8.125, "apart": 11.5},
        "split_mean": mean | {next(iter(used)) if len(used) == 1 else "all": -0.0625},
        "words": {str(i): word for i, word in enumerate(words)},
        "tokens": [i % n for i in range(count)],
        "nll": nll,
        "gain": gain,
        "guesses": guesses,
        "neighbours": neighbours,
        "stored": [STORED] if stored else [],
        "contexts": {"text": [span], "train": [[0, [_word(p, n) for p in range(200)]]] if stored else []},
        "latest": {"train_tokens": 1000, "never": 3, "classes": [_late(i) for i in range(n)]},
        "moved": {
            "writing": {"rule": "whitened", "gamma": 0.1},
            "first": 9,
            "stop": FIRST + count,
            "documents": 2,
            "classes": [_moved(i) for i in range(n)],
        },
    }


def _word(place: int, n: int) -> int:
    return place * 7 % n


def _pairs(i: int, n: int, stored: bool) -> list[list[Any]]:
    places = [(i * 5 + j) % 190 if stored else FIRST + i - 13 * j - 6 for j in range(i % 4)]
    return [[place, _word(place, n), 0.5 / (j + 1), 2.34567 * (j + 1)] for j, place in enumerate(places)]


def _late(i: int) -> dict[str, Any]:
    row = {"class": i, "place": 999 - i, "count": 1200 * i, "band": "<100", "length": 1.5, "band_length": 1.25}
    return row | (
        {"tokens": 4, "model": 6.5, "mixture": 5.25} if i % 2 else {"tokens": 0, "model": None, "mixture": None}
    )


def _moved(i: int) -> dict[str, Any]:
    row = {"class": i, "moved": 1.25 / (1 + i), "count": 30, "sights": 1 + i, "later": i}
    return row | ({"model": 6.5, "written": 5.25} if i else {"model": None, "written": None})


def probability(nll: float | None) -> float:
    return 0.0 if nll is None else math.exp(-nll)


def record_of(folder: Path, passage: dict[str, Any]) -> Record:
    """A run that was evaluated so."""
    memory = {**(passage.get("settings") or {}), "variants": [{"name": "model"}]}
    result = {"split": passage.get("split"), "memory": memory}
    return Record(folder.name, folder, "data", Config(), [], result)
