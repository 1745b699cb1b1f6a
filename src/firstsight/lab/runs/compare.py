"""Whether two results may be held against each other."""

from collections.abc import Mapping
from typing import Any

from firstsight.errors import InputError

# Two results are alike when these fit: only then is a difference of perplexity a difference of models.
ALIKE = {"dataset": "data set", "split": "split", "vocabulary_hash": "vocabulary (vocabulary_hash)", "tokens": "tokens"}


def check_alike(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that results were measured on the same tokens with the same vocabulary and bands."""
    for difference in unlike(results):
        raise InputError(
            f"The results of {difference}: perplexities of other words, or of another share of unknown ones, say "
            "nothing about each other. Train both on the same data folder and evaluate both with firstsight eval on "
            "the same split; or compare them all the same with firstsight report --force, which says so on the page."
        )


def unlike(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the results differ from the first in what they were measured on: one clause for each that does."""
    found, names = [], list(results)
    for other in names[1:]:
        a, b = results[names[0]], results[other]
        differing = [(label, a.get(key), b.get(key)) for key, label in ALIKE.items() if a.get(key) != b.get(key)]
        differing += [("bands", _bands(a), _bands(b))] if _bands(a) != _bands(b) else []
        if differing:
            label, one, two = differing[0]
            found.append(f"{names[0]} and {other} cannot be compared, for they differ in {label}: {one} against {two}")
    return found


def _bands(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{band['name']} with {band['tokens']:,} tokens" for band in result["bands"])
