"""Classes to look at: those that training met last, and those that a write would move most.

Shape suffixes: N tokens of a split, V classes, U classes a document wrote, D features.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.heads import HebbianAdaptiveSoftmax
from firstsight.heads.write import HebbianWrite
from firstsight.lab.data.bands import BANDS, EDGES
from firstsight.lab.lm.reader import Segment, reading
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.adapt import MOMENTS_OF
from firstsight.lab.reading.moments import measure_moments
from firstsight.lab.reading.tables import mean_of, sights_before
from firstsight.lab.reading.writing import Writing, Written, WrittenRows
from firstsight.lab.system.shape import finite_or_none

SHOWN = 20  # classes of each kind
READ_AT_ONCE = 2**24  # tokens of training text looked at together


def latest_classes(
    run: Run, train_N: np.ndarray, tokens: np.ndarray, model_N: np.ndarray, mixture_N: np.ndarray
) -> dict[str, Any]:
    """The classes whose first occurrence in the training text came last, the last first.

    Args:
        run: the run.
        train_N: the training text.
        tokens: [N] the split that was read.
        model_N, mixture_N: [N] its NLL under the model, and with all memories mixed in.

    Returns:
        ``{"train_tokens", "never", "classes"}``: the length of the training text, how many classes are not in it, and
        of each class where it was met first, how often training had it, the length of its row beside the median of its
        band's classes (null where rows have several widths), and its tokens in the split with their mean NLL.
    """
    counts, first_V = run.vocabulary.counts, first_sights(train_N, len(run.vocabulary))
    met = int((first_V < len(train_N)).sum())
    order = np.argsort(-first_V, kind="stable")
    latest = order[len(order) - met :][:SHOWN]
    length_V, band_V = _lengths(run), np.digitize(counts, EDGES)
    classes = []
    for index in latest.tolist():
        here_N, band = tokens == index, int(band_V[index])
        median = None if length_V is None else float(np.median(length_V[band_V == band]))
        classes.append(
            {
                "class": index,
                "place": int(first_V[index]),
                "count": int(counts[index]),
                "band": BANDS[band],
                "length": None if length_V is None else finite_or_none(float(length_V[index])),
                "band_length": finite_or_none(median),
                "tokens": int(here_N.sum()),
                "model": mean_of(model_N, here_N),
                "mixture": mean_of(mixture_N, here_N),
            }
        )
    return {"train_tokens": len(train_N), "never": len(first_V) - met, "classes": classes}


def first_sights(tokens: np.ndarray, classes: int) -> np.ndarray:
    """Where each class stands first in a text [V]; its length for one that is not there. Bounded memory."""
    first_V = np.full(classes, len(tokens), dtype=np.int64)
    for begin in reversed(range(0, len(tokens), READ_AT_ONCE)):
        part = np.asarray(tokens[begin : begin + READ_AT_ONCE])[::-1]
        first_V[part] = np.arange(begin + len(part) - 1, begin - 1, -1)  # of several values the last one stays
    return first_V


def _lengths(run: Run) -> np.ndarray | None:
    """The length of each class's row [V]."""
    weight = getattr(run.model.head, "weight", None)
    return weight.detach().double().norm(dim=1).cpu().numpy() if isinstance(weight, torch.Tensor) else None


def moved_classes(
    run: Run,
    train_N: np.ndarray,
    tokens: np.ndarray,
    model_N: np.ndarray,
    segments: Sequence[Segment],
    starts: Iterable[int],
) -> dict[str, Any]:
    """The classes whose rows moved most, once a head that writes reads on and writes, as ``firstsight adapt`` does.

    The rule and its settings are the defaults of that command; where documents are known the rows go back at their
    start, and a class counts as far as the farthest of its rows stood at the end of one.

    Args:
        run: the run.
        train_N: the training text.
        tokens: [N] the split.
        model_N: [N] its NLL under the model.
        segments: the part of it to be read and written, in one stream.
        starts: where documents begin.

    Returns:
        ``{"why": text}`` of a head that does not write, else ``{"writing", "first", "stop", "documents", "classes"}``:
        the settings, what was read, and of each class the distance moved as a share of its row's length, its sights,
        and its mean NLL on all but the first of a document: as trained, and written.
    """
    if not _writes(run.model.head):
        return {"why": f"The head of this run, {run.config.head}, writes nothing: it learns by gradient alone."}
    try:
        weight = run.model.rows
    except InputError:
        return {"why": "This head's rows have several widths, and the write while reading needs those of one matrix."}
    moments = measure_moments(run.model, train_N[:MOMENTS_OF], eos_id=run.vocabulary.eos_id)
    rows = WrittenRows(weight, run.model.head.bias, run.vocabulary.counts, writing := Writing(), moments)
    watch, first, stop = _Watch(rows), segments[0].first, segments[-1].stop
    with reading(run.model):
        written_N = np.concatenate([watch.read(segment) for segment in segments])
    moved_V = watch.moved().numpy()
    inside = [start - first for start in starts if first < start < stop]
    read_N, before_N = tokens[first:stop], sights_before(tokens[first:stop], inside)
    classes = []
    for index in np.argsort(-moved_V, kind="stable")[:SHOWN].tolist():
        here_N = read_N == index
        if moved_V[index] > 0:
            later_N = here_N & (before_N > 0)
            classes.append(
                {
                    "class": index,
                    "moved": float(moved_V[index]),
                    "count": int(run.vocabulary.counts[index]),
                    "sights": int(here_N.sum()),
                    "later": int(later_N.sum()),
                    "model": mean_of(model_N[first:stop], later_N),
                    "written": mean_of(written_N, later_N),
                }
            )
    read = {"first": first, "stop": stop, "documents": 1 + len(inside)}
    return {"writing": dataclasses.asdict(writing), **read, "classes": classes}


def _writes(head: torch.nn.Module) -> bool:
    return isinstance(head, (HebbianWrite, HebbianAdaptiveSoftmax))


class _Watch:
    """Writes a text as ``Written`` does, and keeps how far each row stood from the trained one before it went back."""

    def __init__(self, rows: WrittenRows) -> None:
        self._rows, self._reader = rows, Written(rows)
        self._moved_V = torch.zeros(len(rows.rows_CD), dtype=torch.float64)

    def read(self, segment: Segment) -> np.ndarray:
        if segment.fresh:
            self.moved()
        return self._reader.read(segment)[0].float().cpu().numpy()

    def moved(self) -> torch.Tensor:
        """The largest distance so far, as a share of the row's length; of a row of length 0 there is none."""
        at_U = self._rows.sights_C.nonzero()[:, 0]
        start_UD = self._rows.start_CD[at_U].double()
        share_U = (self._rows.rows_CD[at_U].double() - start_UD).norm(dim=1) / start_UD.norm(dim=1)
        at_U, share_U = at_U.cpu(), share_U.nan_to_num(0.0, posinf=0.0).cpu()
        self._moved_V[at_U] = torch.maximum(self._moved_V[at_U], share_U)
        return self._moved_V
