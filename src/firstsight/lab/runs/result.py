"""``result.json``, what an evaluation leaves, checked as far as tables and plots need it; and what all sweeps leave."""

import math
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.system.shape import is_number_or_none

_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "settings by name"}


def check_result(result: Any, source: str) -> None:
    """Check that what was read from ``source`` has the fields of an evaluation that tables and plots need."""
    mend = "Evaluate the run anew with firstsight eval."
    if not isinstance(result, dict):
        raise InputError(f"{source}: expected the result of an evaluation, a JSON object. {mend}")
    for name, kind in {"dataset": str, "split": str, "tokens": int, "bands": list, "config": dict}.items():
        if not isinstance(result.get(name), kind):
            raise InputError(f"{source}: {name} is {result.get(name)!r}; expected {_KINDS[kind]}. {mend}")
    if not is_number_or_none(result.get("perplexity", "missing")):
        raise InputError(f"{source}: perplexity is {result.get('perplexity')!r}; expected a number. {mend}")
    for band in result["bands"]:
        sound = isinstance(band, dict) and isinstance(band.get("name"), str) and isinstance(band.get("tokens"), int)
        if not sound or not is_number_or_none(band.get("perplexity", "missing")):
            raise InputError(f"{source}: a band is {band!r}; expected its name, tokens and perplexity. {mend}")


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
