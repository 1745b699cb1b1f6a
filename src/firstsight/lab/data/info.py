"""What a data folder holds: counts, unknown words, the shape of its vocabulary, and where it comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.lab.data.bands import BANDS, EDGES
from firstsight.lab.data.corpus import Corpus, open_corpus
from firstsight.lab.system.files import regular_file
from firstsight.lab.system.manifest import DIGESTS, check_file, check_there, listed

_BLOCK = 1 << 22  # tokens counted at a time
_FEW = 20  # top tokens and sources that are listed
_LISTED = 50  # an evaluation split of no more documents is listed document by document


def describe_corpus(folder: str | Path) -> dict[str, Any]:
    """Describe a data folder; shares are between 0 and 1.

    Returns:
        ``tokens``, ``documents`` (None where no boundaries are kept) and ``unknown`` by split; ``by_document``, the
        tokens of each document of an evaluation split of up to 50; ``vocabulary`` (types);
        ``singletons``, the types that training has once; ``top``, the most frequent tokens of training; ``bands``,
        types and tokens of each split by training count; ``paper``, the paper's token counts next to these, where
        meta.json has them; ``provenance``; ``bytes`` of each file; ``notes``.
    """
    corpus = open_corpus(folder)
    tokens: dict[str, int] = corpus.meta["tokens"]
    counts_of = {split: _counts(corpus, split) for split, total in tokens.items() if total}
    train = corpus.vocabulary.counts
    once = int(np.count_nonzero(train == 1))
    seen = int(np.count_nonzero(train))
    documents = {split: corpus.documents(split) if total else None for split, total in tokens.items()}
    known = [corpus.folder / name for name in listed(corpus.folder) if "/" not in name]
    check_there(*known)
    there = {*known, *(path for path in corpus.folder.iterdir() if not path.is_dir())}
    files = sorted(path for path in there if path.name != DIGESTS and not path.name.startswith("."))
    for path in files:
        check_file(regular_file(path, "a part of a prepared corpus"))
    return {
        "corpus": corpus.name,
        "folder": str(corpus.folder),
        "tokens": tokens,
        "documents": {split: None if of is None else len(of) for split, of in documents.items()},
        "by_document": {
            split: dict(zip(of.names, np.diff(of.starts).tolist(), strict=True))
            for split, of in documents.items()
            if split != "train" and of is not None and len(of) <= _LISTED
        },
        "vocabulary": len(corpus.vocabulary),
        "unknown": {split: int(c[corpus.vocabulary.unk_id]) / tokens[split] for split, c in counts_of.items()},
        "singletons": {"types": once, "share": once / seen if seen else 0.0},
        "top": [
            {"token": corpus.vocabulary.tokens[i], "count": int(train[i])}
            for i in np.argsort(-train, kind="stable")[:_FEW]
            if train[i]
        ],
        "bands": _bands(train, counts_of),
        "paper": _paper(corpus),
        "provenance": _provenance(corpus),
        "bytes": {path.name: path.stat().st_size for path in files},
        "notes": [] if seen else ["There is no training text, so there is nothing to plot."],
    }


def _counts(corpus: Corpus, split: str) -> npt.NDArray[np.int64]:
    """How often each type occurs in a split, [V]; training's are in the vocabulary."""
    tokens = corpus.split(split)
    if split == "train":
        return corpus.vocabulary.counts
    counts = np.zeros(len(corpus.vocabulary), dtype=np.int64)
    for start in range(0, len(tokens), _BLOCK):
        counts += np.bincount(tokens[start : start + _BLOCK], minlength=len(counts))
    return counts


def _bands(train: npt.NDArray[np.int64], counts_of: dict[str, npt.NDArray[np.int64]]) -> list[dict[str, Any]]:
    """Types and tokens by training count, the most frequent first."""
    band_V = np.digitize(train, EDGES)
    bands = []
    for i in reversed(range(len(BANDS))):
        tokens = {split: int(counts[band_V == i].sum()) for split, counts in counts_of.items()}
        share = {split: tokens[split] / int(counts.sum()) for split, counts in counts_of.items()}
        bands.append({"name": BANDS[i], "types": int(np.count_nonzero(band_V == i)), "tokens": tokens, "share": share})
    return bands


def _paper(corpus: Corpus) -> dict[str, dict[str, Any]] | None:
    """By split: the paper's tokens, ours, and how much more ours are, as a share."""
    if corpus.name != "gutenberg" or not corpus.meta.get("paper_tokens"):
        return None
    return {
        split: {"paper": paper, "ours": ours, "difference": ours / paper - 1}
        for split, paper in corpus.meta["paper_tokens"].items()
        for ours in [corpus.meta["tokens"][split]]
    }


def _provenance(corpus: Corpus) -> dict[str, Any]:
    """meta.json without the numbers that stand elsewhere, and with the first sources only."""
    elsewhere = ("corpus", "tokens", "unknown", "vocabulary", "documents", "paper_tokens", "complete")
    kept = {name: value for name, value in corpus.meta.items() if name not in elsewhere}
    sources = corpus.meta.get("sources", [])
    return kept | {"sources": sources[:_FEW], "sources_total": len(sources)}
