"""Means of a text's NLL: by how often training had a word, and by how often the text has had it before.

Shape suffix: N tokens of the text.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from firstsight.lab.data.bands import EDGES
from firstsight.lab.lm.evaluation import by_band, exp_or_inf
from firstsight.lab.system.shape import finite_or_none


def summary(nll_N: np.ndarray, count_N: np.ndarray) -> dict[str, Any]:
    """Mean NLL and perplexity of all tokens [N], and of the bands of their training counts [N], as ``evaluate``'s."""
    nll, bands = by_band(nll_N, count_N)
    bands = [band | {"perplexity": finite_or_none(band["perplexity"])} for band in bands]
    return {"nll": finite_or_none(nll), "perplexity": finite_or_none(exp_or_inf(nll)), "bands": bands}


def bands_before(tokens: np.ndarray, counts: np.ndarray, eos_id: int) -> np.ndarray:
    """The band [N] of the word before each token, an index of ``BANDS``, from training's counts [V].

    A mixture's weights may depend on it, for it is known before the word is: weights by the word's own band would not
    sum to a probability of 1 over all words.
    """
    band_N: np.ndarray = np.digitize(counts[np.concatenate([[eos_id], tokens[:-1]])], EDGES)
    return band_N


def sight_table(
    nll: dict[str, np.ndarray], tokens: np.ndarray, chosen_N: np.ndarray, starts: Iterable[int] = ()
) -> list[dict[str, Any]]:
    """Mean NLL of the chosen tokens by how often the text, or the document, has had their word before.

    Rows of 0, 1, 2 to 3, 4 to 7 earlier sights and so on: ``{"seen": k, "tokens": n, **{name: mean}}``.
    """
    before_N = sights_before(tokens, starts)
    bucket_N = np.where(before_N == 0, 0, 1 << np.log2(np.maximum(before_N, 1)).astype(np.int64))
    table = []
    for seen in np.unique(bucket_N[chosen_N]).tolist():
        these_N = chosen_N & (bucket_N == seen)
        means = {name: mean_of(nll_N, these_N) for name, nll_N in nll.items()}
        table.append({"seen": seen, "tokens": int(these_N.sum()), **means})
    return table


def mean_of(nll_N: np.ndarray, these_N: np.ndarray) -> float | None:
    """Mean, summed in float64, of the chosen tokens; None of no tokens, or where it is not finite."""
    return finite_or_none(float(nll_N[these_N].mean(dtype=np.float64))) if these_N.any() else None


def sights_before(ids: np.ndarray, starts: Iterable[int] = ()) -> np.ndarray:
    """How often [N] the class of each token stands before it, since its document's start if starts are given."""
    marks = np.zeros(len(ids), dtype=np.int64)
    marks[[start for start in starts if 0 < start < len(ids)]] = 1
    key_N = np.cumsum(marks) * (int(ids.max()) + 1) + ids.astype(np.int64)
    order_N = np.argsort(key_N, kind="stable")
    sorted_N = key_N[order_N]
    begins_N = np.r_[True, sorted_N[1:] != sorted_N[:-1]]
    run_start_N = np.maximum.accumulate(np.where(begins_N, np.arange(len(ids)), 0))
    before_N = np.empty(len(ids), dtype=np.int64)
    before_N[order_N] = np.arange(len(ids)) - run_start_N
    return before_N
