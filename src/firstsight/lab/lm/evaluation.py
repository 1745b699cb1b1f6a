"""Perplexity of a token stream, overall and by how often its words occur in training.

Shape suffixes: N tokens of the text, V vocabulary.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.lab.data.bands import BANDS, EDGES
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Plain, Text, read
from firstsight.lab.system.ranks import ALONE, Ranks
from firstsight.lab.system.shape import finite_or_none


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    A model that has diverged can have an infinite or undefined perplexity; ``to_dict`` writes None for it.
    """

    tokens: int
    """predicted tokens N"""
    nll: float
    """mean negative log-likelihood of a token, in nats"""
    perplexity: float
    """exp(nll)"""
    bands: list[dict[str, Any]]
    """the most frequent first, each ``{"name", "tokens", "perplexity"}``; None is the perplexity of no tokens"""
    streams: int
    """contiguous parts that the text was read in; reported numbers use 1"""
    seconds: float
    """wall time"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that are valid JSON: a number that is not finite becomes None."""
        bands = [band | {"perplexity": finite_or_none(band["perplexity"])} for band in self.bands]
        changed = {"nll": finite_or_none(self.nll), "perplexity": finite_or_none(self.perplexity), "bands": bands}
        return dataclasses.asdict(self) | changed


def evaluate(
    model: LanguageModel,
    tokens: np.ndarray,
    counts: np.ndarray,
    *,
    eos_id: int,
    streams: int = 1,
    progress: Callable[[int], object] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    r"""Perplexity of a text, overall and in bands of the target's training count c.

    .. math:: \mathrm{perplexity} = \exp\Big(-\frac{1}{N} \sum_t \log p(w_t \mid w_{<t})\Big)

    Every token counts once, ``<eos>`` as well, and sums are held in float64. Bands: ``>10K``: c > 10,000;
    ``1K-10K``: 1,000 <= c <= 10,000; ``100-1K``: 100 <= c < 1,000; ``<100``: 1 <= c < 100; ``unseen``: c = 0. The
    first four are the paper's; the sides of their edges are our decision, and so is ``unseen``, which stands apart
    because such a word has never been a target in training, and no write has touched its row.

    Args:
        model: see ``token_nll``, as for everything that is not named here.
        tokens: [N] integers.
        counts: [V] occurrences of each type in the training text.

    Raises:
        InputError: ``counts`` is not as long as the vocabulary, or the text cannot be read: see ``Text``.
    """
    start = time.perf_counter()
    if len(counts) != model.num_types:
        raise InputError(
            f"counts has {len(counts):,} entries but the model knows {model.num_types:,} types. "
            "Give the counts of the vocabulary that the model was trained with."
        )
    nll_N = token_nll(model, tokens, eos_id=eos_id, streams=streams, progress=progress, ranks=ranks)
    nll, bands = by_band(nll_N, counts[tokens])
    return Evaluation(len(nll_N), nll, exp_or_inf(nll), bands, streams, time.perf_counter() - start)


def by_band(nll_N: np.ndarray, count_N: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """The mean NLL of tokens [N] whose words training had count [N] times, and ``Evaluation.bands`` of them."""
    band_N = np.digitize(count_N, EDGES)
    sizes = np.bincount(band_N, minlength=len(BANDS))
    sums = np.bincount(band_N, weights=nll_N, minlength=len(BANDS))  # float64
    bands = [
        {"name": name, "tokens": int(size), "perplexity": exp_or_inf(total / size) if size else None}
        for name, size, total in reversed(list(zip(BANDS, sizes, sums, strict=True)))
    ]
    return float(sums.sum()) / len(nll_N), bands


def token_nll(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    eos_id: int,
    streams: int = 1,
    progress: Callable[[int], object] | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """The negative log-likelihood [N] float32 of every token of a text, the first one too, in nats.

    Args:
        model, tokens, eos_id, streams: as :class:`firstsight.lab.lm.reader.Text`.
        progress: called after each segment with the number of tokens predicted so far.
        ranks: share the streams among them; each then has the NLL of all tokens.
    """
    text = Text(model, tokens, eos_id, streams, share=ranks.share(streams))
    if ranks.size == 1:
        return read(text, {"model": Plain(model.head)}, progress=progress)["model"]
    found = {"model": np.zeros(len(tokens), dtype=np.float32)}  # where other ranks read, 0 is added to what they found
    if len(text.edges()) > 1:
        read(text, {"model": Plain(model.head)}, found=found, progress=progress)
    return ranks.sum(torch.from_numpy(found["model"])).numpy()


def exp_or_inf(nll: float) -> float:
    """exp(nll); an overflow is inf, and NaN stays NaN."""
    return math.exp(nll) if nll < 709 else nll * math.inf
