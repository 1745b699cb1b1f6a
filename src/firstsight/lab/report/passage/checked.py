"""Whether a ``passage.json`` is as it was written: somebody may have edited it, cut it short or mixed it up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.reading.passage.written import ALL, FORMAT
from firstsight.lab.system.shape import (
    COUNT,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    WHOLE,
    Kind,
    Named,
    as_dict,
    check_shape,
    is_finite,
    is_share,
    is_whole,
)

SLACK = 1e-6  # of shares, which were rounded
MEND = "Make it anew: firstsight eval RUN --memory."


def check_passage(data: Any, path: Path) -> None:
    """Raise InputError unless the content of a file is as ``write_passage`` writes it."""
    check_shape(data, _SHAPE, f"{path}: this is damaged", MEND)
    if "why" in data["moved"]:
        check_shape(data["moved"], {"why": TEXT}, f"{path}: this is damaged: of moved", MEND)
    else:
        check_shape(data["moved"], _MOVED, f"{path}: this is damaged: of moved", MEND)
    if fault := _inconsistent(data):
        raise InputError(f"{path}: this is damaged: {fault}. {MEND}")


def _are_rows(value: Any, holds: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and all(map(holds, row)) for row in value)


def _is_guess(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and is_whole(row[0], 0) and is_share(row[1], SLACK)


def _is_pair(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 4
        and is_whole(row[0], 0)
        and _is_guess(row[1:3])
        and is_finite(row[3])
        and row[3] >= 0
    )


def _is_run(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 2
        and is_whole(row[0], 0)
        and isinstance(row[1], list)
        and all(is_whole(index, 0) for index in row[1])
    )


_RUNS = Kind(lambda value: isinstance(value, list) and all(map(_is_run, value)), "runs of a text")
_SHAPE = {
    "format": Kind(lambda value: value == FORMAT, repr(FORMAT)),
    "run": TEXT,
    "split": TEXT,
    "split_tokens": WHOLE,
    "first": WHOLE,
    "settings": Kind(lambda value: any(as_dict(value).get(name) for name in MEMORIES), "settings of a memory"),
    "activations": {"length": COUNT, "apart": COUNT},
    "split_mean": Named(NUMBER_OR_NULL),
    "words": Named(TEXT),
    "tokens": Kind(lambda v: isinstance(v, list) and bool(v) and all(is_whole(i, 0) for i in v), "a list of words"),
    "nll": Named([NUMBER_OR_NULL]),
    "gain": Named([NUMBER_OR_NULL]),
    "guesses": Named(Kind(lambda value: _are_rows(value, _is_guess), "guesses of each token")),
    "neighbours": Named(Kind(lambda value: _are_rows(value, _is_pair), "pairs of each token")),
    "stored": [TEXT],
    "contexts": {"text": _RUNS, "train": _RUNS},
    "latest": {
        "train_tokens": WHOLE,
        "never": WHOLE,
        "classes": [
            {
                "class": WHOLE,
                "place": WHOLE,
                "count": WHOLE,
                "band": TEXT,
                "length": NUMBER_OR_NULL,
                "band_length": NUMBER_OR_NULL,
                "tokens": WHOLE,
                "model": NUMBER_OR_NULL,
                "mixture": NUMBER_OR_NULL,
            }
        ],
    },
    "moved": OBJECT,
}
_MOVED = {
    "writing": OBJECT,
    "first": WHOLE,
    "stop": WHOLE,
    "documents": WHOLE,
    "classes": [
        {
            "class": WHOLE,
            "moved": COUNT,
            "count": WHOLE,
            "sights": WHOLE,
            "later": WHOLE,
            "model": NUMBER_OR_NULL,
            "written": NUMBER_OR_NULL,
        }
    ],
}


def _inconsistent(data: Mapping[str, Any]) -> str | None:
    """What of a file does not fit the rest of it."""
    used, tokens, words = [name for name in MEMORIES if data["settings"].get(name)], data["tokens"], data["words"]
    weights = [as_dict(data["settings"][name]).get("weight") for name in used]
    if not all(is_share(weight, SLACK) for weight in weights):
        return "settings have no weight of a memory"
    views = [*used, ALL]
    for name, columns in (("nll", ["model", *used]), ("gain", views), ("guesses", ["model"])):
        if missing := [column for column in columns if column not in data[name]]:
            return f"{name} has no {missing[0]}"
    if missing := [view for view in ["model", *views] if view not in data["split_mean"]]:
        return f"split_mean has no {missing[0]}"
    for part in ("nll", "gain", "guesses", "neighbours"):
        for name, rows in data[part].items():
            if len(rows) != len(tokens):
                return f"{part} of {name} are {len(rows):,}, the tokens {len(tokens):,}"
    held = {*tokens, *(row["class"] for row in data["latest"]["classes"])}
    held |= {index for runs in data["contexts"].values() for _, ids in runs for index in ids}
    held |= {index for rows in data["guesses"].values() for token in rows for index, _ in token}
    held |= {label for rows in data["neighbours"].values() for token in rows for _, label, *_ in token}
    if "why" not in data["moved"]:
        held |= {row["class"] for row in data["moved"]["classes"]}
    if missing := sorted(index for index in held if str(index) not in words):
        return f"the word of number {missing[0]} is missing"
    return None
