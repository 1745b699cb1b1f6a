"""Evaluation text that also stands in training text: which documents share it, and how much.

The paper does not check its splits for it. Our measure is the share of an evaluation document's n-word shingles
(``shingles`` beside this file; n = 13, as is usual since GPT-3's audit) that one training document holds as well.

Legend: M evaluation documents of a piece, T documents that are searched, P shingle positions of a piece, R pairs.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.data.audit.overlap import Overlap, overlaps
from firstsight.lab.data.audit.shingles import Ints, ShingleIndex, search
from firstsight.lab.data.corpus import Corpus, open_corpus
from firstsight.lab.data.documents import Documents
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import DATA, hold
from firstsight.lab.system.machine import command_line
from firstsight.lab.system.progress import Bar

WORDS = 13
MIN_SHARE = 0.005
COMMON = 50
_MOST = 1000  # pairs that are listed
_BLOCK = 1 << 18  # tokens searched at a time
_PIECE = 1 << 24  # evaluation tokens indexed at a time: about a gigabyte
_ROWS = 1 << 22  # occurrences sorted at a time
_EXCERPT = 40  # words of a passage that are shown


class _Place(NamedTuple):
    """An evaluation document: ``tokens[start:stop]`` of its split."""

    split: str
    name: str
    start: int
    stop: int


@dataclass
class Audit:
    """What ``audit`` found.

    Attributes:
        places: all evaluation documents.
        held: float64 [T], the largest share of an evaluation document that each training document holds.
        of: int64 [T], which evaluation document that is, an index into ``places``; -1: none.
        pairs: the pairs of at least ``min_share``, the largest share first, at most ``_MOST``.
        found: how many such pairs there are.
        documents: the evaluation documents that share text with training, the largest share first, at most ``_MOST``.
        splits: totals of "valid" and "test".
    """

    places: list[_Place]
    held: npt.NDArray[np.float64]
    of: Ints
    pairs: list[dict[str, Any]] = field(default_factory=list)
    found: int = 0
    documents: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)


def audit_corpus(
    folder: str | Path, *, n: int = WORDS, min_share: float = MIN_SHARE, common: int = COMMON
) -> dict[str, Any]:
    """Find the validation and test text that stands in training text, and write ``folder/audit.json``.

    Validation text that stands in the test split is found too. A split that keeps no document boundaries is one
    document. Shingles in more than ``common`` documents are boilerplate, a licence or a byline: they count in a
    document's own share, and their part of it is given, but they make no pairs.

    Args:
        n: words of a shingle.
        min_share: pairs are listed from this share of the evaluation document's shingles on, 0 to 1.

    Returns:
        ``pairs`` (the 1,000 largest; ``pairs_found`` counts all), each with the number of matched ``shingles`` and
        their ``share`` of the evaluation document, the ``longest`` passage of it, in words, whose shingles all stand in
        the other document, and its beginning as an ``excerpt``; ``documents``, what any training document holds of each
        evaluation document (1,000 as well); ``splits``, totals.

    Raises:
        InputError: it is no sound data folder, has no training text, or a number is out of its range.
    """
    start = time.perf_counter()
    corpus = open_corpus(folder)
    found = audit(corpus, n=n, min_share=min_share, common=common)
    result = {
        "corpus": corpus.name,
        "n": n,
        "min_share": min_share,
        "common": common,
        "splits": found.splits,
        "pairs_found": found.found,
        "pairs": found.pairs,
        "documents": found.documents,
        "seconds": round(time.perf_counter() - start, 3),
        "command": command_line(),
        "firstsight": __version__,
    }
    with hold(corpus.folder, DATA):
        write_json(corpus.folder / "audit.json", result)
    return result


def audit(
    corpus: Corpus,
    *,
    n: int = WORDS,
    min_share: float = MIN_SHARE,
    common: int = COMMON,
    block: int = _BLOCK,
    piece: int = _PIECE,
    rows: int = _ROWS,
) -> Audit:
    """``audit_corpus`` without the file; the last three bound memory, in tokens and rows.

    They change no number; of equal shares they may decide which is named.
    """
    if not 1 <= n <= 1000 or common < 1 or not 0 <= min_share <= 1:
        raise InputError(
            f"The audit was asked for shingles of {n} words, boilerplate past {common} documents and shares from "
            f"{min_share:g} on; expected 1 to 1,000, 1 or more, and 0 to 1."
        )
    if not corpus.meta["tokens"]["train"]:
        raise InputError(f"{corpus.folder}: there is no training text to search. Audit a data folder that has some.")
    tokens = {split: corpus.split(split) for split, total in corpus.meta["tokens"].items() if total}
    documents = {split: documents_of(corpus, split) for split in tokens}
    places = [
        _Place(split, name, int(start), int(stop))
        for split in ("valid", "test")
        if split in documents
        for name, (start, stop) in zip(documents[split].names, pairwise(documents[split].starts), strict=True)
    ]
    size = len(documents["train"])
    found = Audit(places, np.zeros(size), np.full(size, -1, dtype=np.int64))
    pieces = list(_pieces(places, piece))
    with Bar("audit: tokens searched", len(pieces) * len(tokens["train"])) as bar:
        for part in pieces:
            index = _index(places[part], tokens, corpus.vocabulary, n)
            # Validation documents come first, so a piece that ends with one has no test documents to look for in it.
            for split in ("train", "valid") if places[part][-1].split == "test" and "valid" in tokens else ("train",):
                searched = search(
                    index,
                    tokens[split],
                    documents[split].starts,
                    eos_id=corpus.vocabulary.eos_id,
                    block=block,
                    common=common,
                    progress=bar.advance if split == "train" else None,
                )
                record = _Record(found, part.start, index, split, documents[split].names, corpus.vocabulary)
                if split == "train":
                    record.totals(searched[2], common)
                for overlap in overlaps(index, *searched[:2], rows):
                    record.pairs(overlap, min_share)
    return found


def documents_of(corpus: Corpus, split: str) -> Documents:
    """The documents of a split; the whole split is one, named after it, where the corpus keeps no boundaries."""
    whole = Documents([split], np.array([0, corpus.meta["tokens"][split]]))
    return corpus.documents(split) or whole


def _pieces(places: list[_Place], most: int) -> Iterator[slice]:
    """Consecutive documents of at most that many tokens together, or one that has more."""
    start = total = 0
    for i, place in enumerate(places):
        size = place.stop - place.start
        if i > start and total + size > most:
            yield slice(start, i)
            start, total = i, 0
        total += size
    if start < len(places):
        yield slice(start, len(places))


def _index(places: list[_Place], tokens: dict[str, np.memmap], vocabulary: Vocabulary, n: int) -> ShingleIndex:
    texts = [np.asarray(tokens[place.split][place.start : place.stop]) for place in places]
    texts = [text[text != vocabulary.eos_id] for text in texts]
    starts_M = np.cumsum([0, *map(len, texts)])
    return ShingleIndex(np.concatenate(texts), starts_M, n, vocabulary.unk_id)


class _Record:
    """Adds what one piece shares with one split to an ``Audit``."""

    def __init__(
        self, audit: Audit, first: int, index: ShingleIndex, split: str, names: list[str], vocabulary: Vocabulary
    ) -> None:
        self.audit, self.first, self.index, self.vocabulary = audit, first, index, vocabulary
        self.split, self.names = split, names
        self.shingles_M = np.bincount(index.document_P, minlength=len(index.starts_M) - 1)

    def totals(self, held_U: npt.NDArray[np.int32], common: int) -> None:
        """What any training document holds: per evaluation document, and per split."""
        held_P, size = held_U[self.index.which_P], len(self.shingles_M)
        matched_M = np.bincount(self.index.document_P, weights=held_P > 0, minlength=size).astype(int)
        common_M = np.bincount(self.index.document_P, weights=held_P > common, minlength=size).astype(int)
        for i, place in enumerate(self.audit.places[self.first : self.first + size]):
            shingles, matched, boilerplate = (int(values[i]) for values in (self.shingles_M, matched_M, common_M))
            total = self.audit.splits.setdefault(place.split, {"documents": 0, "shingles": 0, "matched": 0, "share": 0})
            total["documents"] += 1
            total["shingles"] += shingles
            total["matched"] += matched
            total["share"] = total["matched"] / max(1, total["shingles"])
            if matched:
                shares = {"share": matched / shingles, "boilerplate": boilerplate / shingles}
                counts = {"shingles": shingles, "matched": matched}
                self.audit.documents.append({"evaluation": place.name, "split": place.split, **counts, **shares})
        self.audit.documents = _largest(self.audit.documents)

    def pairs(self, overlap: Overlap, min_share: float) -> None:
        """The pairs of at least ``min_share``; of training, also each document's largest share."""
        share_R = overlap.matched / self.shingles_M[overlap.document]
        keep_R = share_R >= min_share
        if self.split == "train":
            order = np.argsort(share_R, kind="stable")  # so that the largest is assigned last
            larger = order[share_R[order] > self.audit.held[overlap.other[order]]]
            self.audit.held[overlap.other[larger]] = share_R[larger]
            self.audit.of[overlap.other[larger]] = overlap.document[larger] + self.first
        else:
            places = self.audit.places[self.first : self.first + len(self.shingles_M)]
            keep_R &= np.array([place.split == "test" for place in places])[overlap.document]
        self.audit.found += int(np.count_nonzero(keep_R))
        best = np.flatnonzero(keep_R)
        best = best[np.argsort(-share_R[best], kind="stable")][:_MOST]
        self.audit.pairs = _largest(self.audit.pairs + [self._pair(overlap, int(r), share_R[r]) for r in best])

    def _pair(self, overlap: Overlap, r: int, share: float) -> dict[str, Any]:
        place = self.audit.places[self.first + int(overlap.document[r])]
        longest, at = int(overlap.longest[r]), int(overlap.at[r])
        words = self.vocabulary.decode(self.index.words_W[at : at + min(longest, _EXCERPT)].tolist())
        return {
            "evaluation": place.name,
            "split": place.split,
            "training": self.names[overlap.other[r]],
            "found_in": self.split,
            "shingles": int(overlap.matched[r]),
            "share": float(share),
            "longest": longest,
            "excerpt": " ".join(words) + (" …" if longest > _EXCERPT else ""),
        }


def _largest(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: -entry["share"])[:_MOST]
