"""``result.json``, what an evaluation leaves, checked as far as tables and plots need it; and what all sweeps leave."""

import math
from typing import Any

from firstsight.lab.system.shape import (
    COUNT,
    NUMBER,
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
_VARIANT: dict[str, Shape] = {"name": TEXT, "perplexity": PERPLEXITY, "bands": BANDS}
_VARIANT |= {"cache_weight?": NUMBER_OR_NULL, "mbpa_weight?": NUMBER_OR_NULL}
_MEMORY: dict[str, Shape] = {"tuned?": TEXT_OR_NULL, "variants?": [_VARIANT]}
_MEMORY |= {"cache?": or_null(Named(NUMBER)), "mbpa?": or_null(Named(NUMBER))}
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
