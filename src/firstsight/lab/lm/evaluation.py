"""Perplexity of a token stream, overall and by how often its words occur in training.

Shape suffixes: N tokens of the text, B streams, S steps of a segment, V vocabulary.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.lab.lm.lstm import LanguageModel, State

BANDS = ("unseen", "<100", "100-1K", "1K-10K", ">10K")
EDGES = (1, 100, 1000, 10_001)  # the smallest count of each band after the first
BLOCK = 1024  # tokens that the head gets at once: enough for full matrix products, little enough to stay small


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
    segment: int | None = None,
    progress: Callable[[int], object] | None = None,
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
        InputError: ``counts`` is not as long as the vocabulary; and see ``token_nll``.
    """
    start = time.perf_counter()
    if len(counts) != len(model.embedding_weight):
        raise InputError(
            f"counts has {len(counts):,} entries but the model knows {len(model.embedding_weight):,} types. "
            "Give the counts of the vocabulary that the model was trained with."
        )
    nll_N = token_nll(model, tokens, eos_id=eos_id, streams=streams, segment=segment, progress=progress)
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
    segment: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """The negative log-likelihood of every token of a text, the first one too.

    The text is cut into ``streams`` contiguous parts, whose lengths differ by one at most, read side by side. A
    part begins with a zero state, and its first input is the token before it, or ``<eos>`` for the first of all. The
    state is carried on from segment to segment, so the segments' length changes nothing but speed and memory.
    The model runs in evaluation mode, on the device where it is, in the precision of the surrounding autocast.

    Args:
        model: its mode, that of each of its parts, is given back as it was.
        tokens: [N] integers in [0, V), a memory map as well.
        eos_id: the id of ``<eos>``.
        streams: parts, 1 or more. With more than 1 it is faster, and each part but the first lacks its context.
        segment: steps at once; by default the head gets 1024 tokens at once.
        progress: called after each segment with the number of tokens predicted so far.

    Returns:
        [N] float32, in nats.

    Raises:
        InputError: no tokens, an id outside the vocabulary, ``streams`` or ``segment`` below 1 or too many streams.
    """
    check_tokens(tokens, len(model.embedding_weight), streams, segment)
    segment = segment or max(1, BLOCK // streams)
    edges = np.array([len(tokens) * stream // streams for stream in range(streams + 1)])
    starts_B1, ends_B1 = edges[:-1, None], edges[1:, None]
    device = model.embedding_weight.device
    nll_N = np.empty(len(tokens), dtype=np.float32)
    state: State | None = None
    done, longest = 0, int((ends_B1 - starts_B1).max())
    with evaluating(model), torch.inference_mode():
        for first in range(0, longest, segment):
            index_BS = starts_B1 + np.arange(first, min(first + segment, longest))
            inside_BS = index_BS < ends_B1
            target_BS = tokens[np.minimum(index_BS, len(tokens) - 1)].astype(np.int64)
            input_BS = np.where(index_BS > 0, tokens[np.maximum(index_BS - 1, 0)], eos_id).astype(np.int64)
            hidden_BSD, state = model(torch.from_numpy(input_BS).to(device), state)
            target_BS = np.where(inside_BS, target_BS, IGNORE_INDEX)
            nll_BS = model.head.nll(hidden_BSD, torch.from_numpy(target_BS).to(device))
            nll_N[index_BS[inside_BS]] = nll_BS.float().cpu().numpy()[inside_BS]
            done += int(inside_BS.sum())
            if progress is not None:
                progress(done)
    return nll_N


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then each part is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_tokens(tokens: np.ndarray, vocabulary: int, streams: int, segment: int | None) -> None:
    """Raise InputError unless ``token_nll`` can read these tokens so."""
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise InputError(
            f"tokens is {tokens.dtype} of shape {list(tokens.shape)}; expected one or more token ids, integers in one "
            "dimension. Is the text empty?"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise InputError(
            f"token ids run from {tokens.min()} to {tokens.max()}, but the model knows the ids 0 to {vocabulary - 1}. "
            "Encode the text with the vocabulary that the model was trained with."
        )
    if not 1 <= streams <= len(tokens):
        raise InputError(f"streams is {streams}; expected 1 to the number of tokens, {len(tokens)}. Reports use 1.")
    if segment is not None and segment < 1:
        raise InputError(f"segment is {segment}; expected 1 or more steps.")


def exp_or_inf(nll: float) -> float:
    """exp(nll); an overflow is inf, and NaN stays NaN."""
    return math.exp(nll) if nll < 709 else nll * math.inf


def finite_or_none(value: float | None) -> float | None:
    """What JSON can hold of a number."""
    return value if value is not None and math.isfinite(value) else None
