"""``result.json``, what an evaluation leaves, checked as far as tables and plots need it; and what all sweeps leave."""

import math
from typing import Any

from firstsight.lab.system.shape import (
    COUNT,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    WHOLE,
    Kind,
    Named,
    Shape,
    check_shape,
    is_finite,
    or_null,
)

MEND = "Evaluate the run anew with firstsight eval."
PERPLEXITY = Kind(lambda value: value is None or (is_finite(value) and value > 0), "a number above 0")
BANDS: Shape = [{"name": TEXT, "tokens": WHOLE, "perplexity": PERPLEXITY}]
_SETTING = Kind(lambda value: isinstance(value, str) or is_finite(value), "a number or text")
_VARIANT: dict[str, Shape] = {"name": TEXT, "perplexity": PERPLEXITY, "bands": BANDS}
_MEMORY: dict[str, Shape] = {"tuned?": TEXT_OR_NULL, "variants?": [_VARIANT]}
EVALUATED: dict[str, Shape] = {
    "split": TEXT,
    "perplexity": PERPLEXITY,
    "bands": BANDS,
    "streams?": WHOLE,
    "seconds?": COUNT,
    "vocabulary_hash?": TEXT,
    "checkpoint?": {"name": TEXT, "step": WHOLE},
    "git_commit?": TEXT_OR_NULL,
    "machine?": TEXT,
    "memory?": or_null(_MEMORY),
}
"""What studies need of an evaluation."""
RESULT: Shape = {**EVALUATED, "dataset": TEXT, "tokens": WHOLE, "config": OBJECT}
"""What tables and plots do."""


def check_result(result: Any, source: str) -> None:
    """Check that what was read from ``source`` has the fields of an evaluation that tables and plots need."""
    check_shape(result, RESULT, source, MEND)
    memory = result.get("memory") or {}  # whose memories have names of their own: a new one is not to be told here
    settings = {name: value for name, value in memory.items() if isinstance(value, dict)}
    check_shape(settings, Named(Named(_SETTING)), source, MEND)
    for row in memory.get("variants", []):
        weights = {name: value for name, value in row.items() if name.endswith("_weight")}
        check_shape(weights, Named(NUMBER_OR_NULL), source, MEND)


def perplexity(value: float | None) -> float:
    """A perplexity as a result holds it; NaN for the null of an empty band."""
    return math.nan if value is None else float(value)


def best_part(what: str, dataset: str, settings: dict[str, Any] | None, perplexity: float | None) -> dict[str, Any]:
    """What every ``sweep.json`` begins with, whatever was searched: on which data, and the ``best`` that was found.

    Args:
        what: "lm" or "memory".
        dataset: the corpus, whose validation split decides.
        settings: the best ones by name; None while there are none.
        perplexity: theirs on that split.
    """
    best = None if settings is None else {"settings": settings, "perplexity": perplexity}
    return {"sweep": what, "dataset": dataset, "split": "valid", "best": best}
