r"""Words that training never saw get a row of their own at first sight, in place of ``<unk>``.

Shape suffixes: N tokens of the text, V the vocabulary, K new words of the text, D features. The id of the new word k
is V + k, in the order of their first sights.

The first sight of a new word costs the NLL of ``<unk>``; its spelling is charged to no one. With the block that holds
it the word becomes a class: the mean row and the mean bias of the rarest words, and a part of its own, as long as
what parts one of them from that mean, with the direction that the rule of the write gives it at a count of 1: that
of the activation. Later sights are scored and written like all
others. Our decisions:

- As an input a new word stays ``<unk>``, which is what a row of its own, started as that of ``<unk>`` and never
  trained, would be: the model was never taught what any other vector means. So too in a tied model.
- The new classes take part in every softmax from then on, and what they cost the other words is counted.
- All K rows are allocated at once and wait with a bias of minus infinity; nothing of size [V, D] is copied to grow.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.first_sight import look
from firstsight.heads.kept.moments import Moments
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.lm.evaluation import token_nll
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Segment, read, reading
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.tables import mean_of, sights_before
from firstsight.lab.reading.writing import Writing, Written, WrittenRows, block_text

RAREST = 0.1  # share of the classes, those that training had least often, that new rows are modelled on


@dataclass(frozen=True)
class Newborn:
    """What a new class starts with."""

    base: Tensor
    """[D] what all new rows have in common; a row is this and a part of its own, which is written"""
    norm: float
    """length of that part"""
    bias: float
    written: bool = True
    """whether its activations are written; without, its row keeps its random direction (a baseline)"""
    sighted: bool = False
    """take row and bias from ``functional.first_sight`` alone, at each sight: base, norm and bias are of no account"""
    seed: int = 0
    """of the random directions"""


def newborn(model: LanguageModel, counts: np.ndarray, offset: float = 0.0) -> Newborn:
    """The mean row, the median length of what parts a row from it, and the mean bias of the rarest classes.

    These are the tenth that training had least, more than never. The mean row carries that such words are rare:
    without it a new class would be likely in half of all contexts.

    Args:
        model: a trained one.
        counts: [V] occurrences in training.
        offset: added to the bias, in nats: a word that a text has had is likelier there than its like in training.
    """
    if not math.isfinite(offset):
        raise InputError(f"offset is {offset}; expected a finite number of nats.")
    seen = np.flatnonzero(counts)
    rarest = seen[np.argsort(counts[seen], kind="stable")][: max(1, round(len(seen) * RAREST))]
    chosen = torch.from_numpy(rarest).to(model.rows.device)
    rows = model.rows.detach()[chosen]
    base, norm = rows.mean(0), float((rows - rows.mean(0)).norm(dim=1).median())
    bias = 0.0 if model.head.bias is None else float(model.head.bias.detach()[chosen].mean())
    return Newborn(base, norm, bias + offset)


def number(words: Iterable[str], vocabulary: Vocabulary) -> np.ndarray:
    """The ids [N] int64 of a text: a word outside the vocabulary gets V + k, k = 0, 1, ... at first sight."""
    words = list(words)
    ids = vocabulary.encode(words).astype(np.int64)
    new: dict[str, int] = {}
    for i in np.flatnonzero(ids == vocabulary.unk_id).tolist():
        if words[i] != vocabulary.tokens[vocabulary.unk_id]:
            ids[i] = len(vocabulary) + new.setdefault(words[i], len(new))
    return ids


def open_nll(
    model: LanguageModel,
    ids: np.ndarray,
    writing: Writing,
    start: Newborn,
    *,
    counts: np.ndarray,
    unk_id: int,
    eos_id: int,
    moments: Moments | None = None,
    segments: list[Segment] | None = None,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """The NLL [N] of every token of a text whose new words become classes; the module's text says how.

    A new word's sight in the block of its first one, before its row is there, is charged as in ``closed_nll``.
    The words of the vocabulary are written as ``writing`` says: with ``max_count=0`` none of them is.

    Args:
        ids: [N], as ``number`` gives them.
        start: what a new class starts with.
        unk_id: the id of ``<unk>``.
        segments: those of ``closed(ids)``, in blocks as ``writing`` has them, if they were formed before.
        model, counts, eos_id, moments, progress: as :func:`firstsight.lab.reading.writing.adapted_nll`.
    """
    V = len(model.rows)
    inputs = closed(ids, V, unk_id)
    first_N = first_sights(ids)
    early_N = (ids >= V) & (first_N // writing.block == np.arange(len(ids)) // writing.block)
    rows = _open_rows(model, counts, int(ids.max()) + 1, writing, start, moments)
    readers = {"open": Written(rows, np.where(early_N, unk_id, ids), ids)}
    text = block_text(model, inputs, writing, eos_id=eos_id)
    nll_N = read(text, readers, segments=segments, progress=progress)["open"]
    repeated_N = early_N & (first_N < np.arange(len(ids)))
    nll_N[repeated_N] += np.log(met_before(ids, V)[repeated_N])
    return nll_N


def closed(ids: np.ndarray, vocabulary: int, unk_id: int) -> np.ndarray:
    """The ids [N] with every new word as ``<unk>``."""
    return np.where(ids < vocabulary, ids, unk_id)


def closed_nll(nll_N: np.ndarray, ids: np.ndarray, vocabulary: int, by_count: bool = False) -> np.ndarray:
    r"""What a model without new classes pays for a new word's later sights: a share of ``<unk>``.

    .. math:: \mathrm{NLL}(\langle unk \rangle) + \log K_t, \quad\text{or by count}\quad
              \mathrm{NLL}(\langle unk \rangle) - \log(n_t / N_t)

    with K new words met before t, n sights of this one before t and N of all new ones. First sights cost
    NLL(``<unk>``). Both give first sights and later ones the whole of ``<unk>``'s mass, so together up to twice of what
    there is: the comparison favours them.

    Args:
        nll_N: [N] NLL of ``closed(ids)``.
        ids: [N], as ``number`` gives them.
        vocabulary: V.
        by_count: divide by the sights so far, a cache of the new words, in place of equal shares.
    """
    later_N = (ids >= vocabulary) & (first_sights(ids) < np.arange(len(ids)))
    share_N = np.ones(len(ids))
    if by_count:
        new_before_N: np.ndarray = np.cumsum(ids >= vocabulary) - (ids >= vocabulary)
        share_N[later_N] = sights_before(ids)[later_N] / new_before_N[later_N]
    else:
        share_N[later_N] = 1 / met_before(ids, vocabulary)[later_N]
    return nll_N - np.log(share_N)


def first_sights(ids: np.ndarray) -> np.ndarray:
    """The position [N] at which the class of each token first stands."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


def met_before(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """How many different new words [N] stand before each token."""
    births_N = (ids >= vocabulary) & (first_sights(ids) == np.arange(len(ids)))
    return np.asarray(np.cumsum(births_N) - births_N)


def open_results(
    run: Run, ids: np.ndarray, writing: Writing, *, moments: Moments, offset: float = 0.0
) -> dict[str, Any]:
    """The variants of an open vocabulary on one text, all on the same events.

    ``closed``: every new word is ``<unk>``, whose mass is shared by those met so far; ``closed_by_count``: shared by
    their sights so far; ``closed_written``: that, with the words of the vocabulary written; ``unwritten``: new rows
    of random direction; ``written``: new rows are written, the others not; ``all_written``: the words of the
    vocabulary are written too, as ``writing`` says (to be held against ``closed_written``); ``sighted``: new rows and
    their biases are those of a first sight, as in a layer in service, and ``offset`` is of no account.

    Returns:
        tokens, new (words, tokens, of them first sights), the settings, and ``variants``: a row each, ``{"name",
        "all", "known", "new": {"1", "2", "3", "4", "5+"}}``, mean NLL in nats (None: of no tokens).
    """
    model, vocabulary = run.model, run.vocabulary
    V, start = len(vocabulary), newborn(model, vocabulary.counts, offset)
    inputs, eos_id = closed(ids, V, vocabulary.unk_id), vocabulary.eos_id
    alone = dataclasses.replace(writing, max_count=0)
    text = block_text(model, inputs, writing, eos_id=eos_id)
    with reading(model):
        segments = list(text)
    known: dict[str, Any] = {"counts": vocabulary.counts, "unk_id": vocabulary.unk_id, "eos_id": eos_id}
    known |= {"moments": moments, "segments": segments}
    unk_N = token_nll(model, inputs, eos_id=eos_id)
    rows = WrittenRows(model.rows, model.head.bias, vocabulary.counts, writing, moments)
    written_N = read(text, {"written": Written(rows)}, segments=segments)["written"]
    nll = {
        "closed": closed_nll(unk_N, ids, V),
        "closed_by_count": closed_nll(unk_N, ids, V, by_count=True),
        "closed_written": closed_nll(written_N, ids, V, by_count=True),
        "unwritten": open_nll(model, ids, alone, dataclasses.replace(start, written=False), **known),
        "written": open_nll(model, ids, alone, start, **known),
        "all_written": open_nll(model, ids, writing, start, **known),
        "sighted": open_nll(model, ids, alone, dataclasses.replace(start, sighted=True), **known),
    }
    new_N = ids >= V
    sight_N = np.where(new_N, np.minimum(sights_before(ids) + 1, 5), 0)  # 0: a word of the vocabulary
    names = ("1", "2", "3", "4", "5+")
    return {
        "tokens": len(ids),
        "new": {
            "types": len(np.unique(ids[new_N])),
            "tokens": int(new_N.sum()),
            "sights": {name: int((sight_N == k).sum()) for k, name in enumerate(names, start=1)},
        },
        "writing": dataclasses.asdict(writing),
        "newborn": {"norm": start.norm, "bias": start.bias, "base_norm": float(start.base.norm()), "offset": offset},
        "variants": [
            {
                "name": name,
                "all": mean_of(nll_N, np.ones_like(new_N)),
                "known": mean_of(nll_N, ~new_N),
                "new": {sight: mean_of(nll_N, sight_N == k) for k, sight in enumerate(names, start=1)},
            }
            for name, nll_N in nll.items()
        ],
    }


def _open_rows(
    model: LanguageModel, counts: np.ndarray, classes: int, writing: Writing, start: Newborn, moments: Moments | None
) -> WrittenRows:
    """The rows of the model, and behind them those that wait for new words."""
    V, weight = len(model.rows), model.rows.detach()
    K = max(0, classes - V)
    generator = torch.Generator("cpu").manual_seed(start.seed)
    random_KD = torch.randn(K, weight.shape[1], generator=generator, dtype=torch.float64, device="cpu")
    random_KD *= start.norm / random_KD.norm(dim=1, keepdim=True)
    bias_V: Tensor = weight.new_zeros(V) if model.head.bias is None else model.head.bias.detach()
    waiting_K = bias_V.new_full((K,), -torch.inf)
    counts_C = np.r_[np.asarray(counts, dtype=np.int64), np.zeros(K, dtype=np.int64)]
    rows_CD = torch.cat([weight, random_KD.to(weight) + start.base.to(weight)])
    rows = WrittenRows(rows_CD, torch.cat([bias_V, waiting_K]), counts_C, writing, moments)
    rows.newborn_bias, rows.first_new = start.bias, V
    rows.base_D = start.base.to(rows.rows_CD)
    rows.writable_C[V:] = True
    rows.limit_C[V:] = writing.T if start.written else 0
    if start.sighted and moments is not None:
        occurrences_V = torch.as_tensor(np.asarray(counts, dtype=np.int64), device=weight.device)
        parts = moments.mean(), moments.bare_covariance(), moments.cross()
        rows.sight = look(weight, bias_V if model.head.bias is not None else None, occurrences_V, *parts)
    return rows
