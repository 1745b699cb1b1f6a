"""The file of a passage: which one it is, what model and memories made of its tokens, and classes to look at.

Shape suffix: N tokens of the split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.lab.lm.reader import Segment, check_tokens, reading
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.reading.passage.classes import latest_classes, moved_classes
from firstsight.lab.reading.passage.votes import (
    Neighbours,
    Recalls,
    activation_lengths,
    model_guesses,
    pairs_before,
    recall_all,
)
from firstsight.lab.system.files import write_json
from firstsight.lab.system.shape import finite_or_none
from firstsight.memory import mix

FORMAT = "firstsight passage 2"
LENGTH = 2000  # tokens of the passage: some pages
BEFORE = 6  # words shown before a neighbour's label
WRITTEN = (
    8000  # tokens before the passage that are written, at most: a whole split would take as long as its evaluation
)
ALL = "all"  # the mixture of all memories


def write_passage(
    run: Run,
    tokens: np.ndarray,
    split: str,
    settings: Mapping[str, Any],
    nll: Mapping[str, np.ndarray],
    memories: Mapping[str, Recalls],
    by_document: bool = False,
) -> None:
    r"""Write ``passage.json``: a passage of a split, what model and memories said of it, and what they recalled.

    .. math:: \mathrm{gain}_t = \log\Big((1 - \sum_i \lambda_i)\, p(y_t) + \sum_i \lambda_i p_i(y_t)\Big) - \log p(y_t)

    in nats, over one memory i or all of them ("all"). The neighbours of a token t are, of the pairs (h_j, y_j) that a
    memory held before t, the three of the largest weight: the cache's softmax of :math:`\theta\, h_t \cdot h_j` over
    all of them, MbPA's :math:`w_j \propto 1 / (\epsilon + |h_j - h_t|^2)` over the K nearest, :math:`\epsilon` = 1e-3;
    of two alike, the more recent first. A memory's guesses are the labels that most weight is on; MbPA's own
    distribution, which is that of rows adapted by them, is another one. All this is worked out in float64.

    Which passage is our decision, a rule that looks at no number, so that nobody picks what looks good: the 2,000
    tokens from the first line that begins in the split's second half, where the memories have filled; the last 2,000
    if fewer are left from there; the whole of a shorter text.

    The file holds words by their numbers in the vocabulary, and a context once, however often it is recalled: runs of
    the text as [where it begins, numbers of its words]. Besides the passage it holds the classes that
    :func:`latest_classes` and :func:`moved_classes` find.

    Args:
        run: the run, in whose folder the file goes.
        tokens: [N] ids of the whole split.
        split: its name.
        settings: of each memory its arguments and its ``weight``, or None; kept in the file as they are.
        nll: in nats, [N] each, from the split read in one stream with memories empty at its start: ``"model"``, and
            that of each memory with settings: alone, not mixed in; inf where it knows nothing of a word.
        memories: those of the settings that can show what they recall, by name, empty.
        by_document: they forgot at the end of each document.

    Raises:
        InputError: no memory has settings, the numbers are not one for each token, or an id is outside the vocabulary.
    """
    used = [name for name in MEMORIES if settings.get(name)]
    check_tokens(tokens, len(run.vocabulary))
    _check_nll(nll, used, len(tokens))
    weights = {name: settings[name]["weight"] for name in used}
    gain = {name: gains(nll, {name: weights[name]}) for name in used} | {ALL: gains(nll, weights)}
    first, stop = choose(tokens, run.vocabulary.eos_id)
    documents, train_N = run.corpus.documents(split), run.corpus.split("train")
    starts = [] if documents is None else documents.starts[:-1].tolist()
    written = max(0, first - WRITTEN)
    segments = _read(run, tokens[:stop], int(max(0, min(written, first - pairs_before(memories)))), starts)
    to_write = [part for one in segments if (part := _from(one, written))]
    found: dict[str, Any] = {
        "format": FORMAT,
        "run": run.name,
        "checkpoint": {"name": run.checkpoint, "step": run.step},
        "vocabulary_hash": run.vocabulary.hash,
        "split": split,
        "split_tokens": len(tokens),
        "first": first,
        "settings": dict(settings),
        "activations": activation_lengths(segments, first, stop),
        "split_mean": {name: _mean(values) for name, values in {"model": nll["model"], **gain}.items()},
        "tokens": tokens[first:stop].tolist(),
        "nll": {name: _finite(nll[name][first:stop]) for name in ("model", *used)},
        "gain": {name: _finite(values[first:stop]) for name, values in gain.items()},
        **_recalled(tokens[:stop], train_N, segments, first, memories, starts if by_document else ()),
        "latest": latest_classes(run, train_N, tokens, nll["model"], mixed_nll(nll, weights)),
        "moved": moved_classes(run, train_N, tokens, nll["model"], to_write, starts),
    }
    found["guesses"]["model"] = model_guesses(run.model, segments, first, stop)
    write_json(run.folder / "passage.json", found | {"words": _words(run, found)})


def _recalled(
    tokens: np.ndarray,
    train_N: np.ndarray,
    segments: Sequence[Segment],
    first: int,
    memories: Mapping[str, Recalls],
    starts: Sequence[int],
) -> dict[str, Any]:
    """What the memories guessed and recalled from the token ``first`` on, and the contexts of that, by their text."""
    neighbours, guesses = recall_all(segments, first, len(tokens), memories, starts)
    text = {name: pairs for name, pairs in neighbours.items() if not memories[name].stored}
    stored = {name: pairs for name, pairs in neighbours.items() if memories[name].stored}
    contexts = {"text": _contexts(tokens, text), "train": _contexts(train_N, stored)}
    return {"guesses": guesses, "neighbours": neighbours, "stored": list(stored), "contexts": contexts}


def choose(tokens: np.ndarray, eos_id: int) -> tuple[int, int]:
    """Where the passage of a split begins and ends; :func:`write_passage` says by which rule."""
    half = len(tokens) // 2
    begins = np.flatnonzero(tokens[half - 1 : -1] == eos_id)
    first = min(half + int(begins[0]) if len(begins) else half, max(0, len(tokens) - LENGTH))
    return first, min(first + LENGTH, len(tokens))


def gains(nll: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The change [N] of each token's log-probability, in nats, when memories are mixed in with these weights."""
    with np.errstate(invalid="ignore"):  # of a model that has diverged
        gain_N: np.ndarray = nll["model"].astype(np.float64) - mixed_nll(nll, weights)
    return gain_N


def mixed_nll(nll: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The NLL [N] of each token with memories mixed in, in float64."""
    held = {name: torch.from_numpy(nll[name].astype(np.float64)) for name in ("model", *weights)}
    return mix(held["model"], [(held[name], weight) for name, weight in weights.items()]).numpy()


def _read(run: Run, tokens: np.ndarray, low: int, starts: list[int]) -> list[Segment]:
    """The text with its activations, in one stream, from the token ``low`` on."""
    with reading(run.model):
        return [part for one in run.text(tokens, starts=starts) if (part := _from(one, low))]


def _from(segment: Segment, low: int) -> Segment | None:
    return segment.part(low, segment.stop) if segment.stop > low else None


def _contexts(tokens: np.ndarray, pairs: Mapping[str, Neighbours]) -> list[list[Any]]:
    """The parts of a text that are shown with these pairs, each once: where it begins, and its ids."""
    places = {int(place) for rows in pairs.values() for token in rows for place, *_ in token}
    runs: list[list[int]] = []
    for place in sorted(place for place in places if place < len(tokens)):
        begin = max(0, place - BEFORE)
        if runs and begin <= runs[-1][1]:
            runs[-1][1] = place + 1
        else:
            runs.append([begin, place + 1])
    return [[begin, tokens[begin:end].tolist()] for begin, end in runs]


def _words(run: Run, found: Mapping[str, Any]) -> dict[str, str]:
    """The words that the file has numbers of."""
    held = set(found["tokens"])
    for rows in found["guesses"].values():
        held |= {int(index) for token in rows for index, _ in token}
    for rows in found["neighbours"].values():
        held |= {int(label) for token in rows for _, label, *_ in token}
    for runs in found["contexts"].values():
        held |= {index for _, ids in runs for index in ids}
    for part in ("latest", "moved"):
        held |= {row["class"] for row in found[part].get("classes", [])}
    ordered = sorted(held)
    return dict(zip(map(str, ordered), run.vocabulary.decode(ordered), strict=True))


def _check_nll(nll: Mapping[str, np.ndarray], used: list[str], tokens: int) -> None:
    if not used:
        raise InputError(f"A passage shows what a memory changes; give the settings of one: {', '.join(MEMORIES)}.")
    for name in ("model", *used):
        if name not in nll or np.shape(nll[name]) != (tokens,):
            given = f"of shape {list(np.shape(nll[name]))}" if name in nll else "missing"
            raise InputError(f"The NLLs of {name} are {given}; expected one for each of the split's {tokens:,} tokens.")


def _finite(values: np.ndarray) -> list[float | None]:
    return [finite_or_none(value) for value in values.tolist()]


def _mean(values: np.ndarray) -> float | None:
    with np.errstate(invalid="ignore"):
        return finite_or_none(float(values.mean(dtype=np.float64)))
