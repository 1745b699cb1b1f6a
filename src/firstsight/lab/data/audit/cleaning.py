"""A data folder without the training documents that hold evaluation text."""

import shutil
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.data.audit.audit import COMMON, WORDS, Audit, audit, documents_of
from firstsight.lab.data.corpus import STALE, Corpus, open_corpus
from firstsight.lab.data.documents import Documents, write_documents
from firstsight.lab.data.tokens import write_tokens
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import DATA
from firstsight.lab.system.machine import command_line
from firstsight.lab.system.replace import replacing

MAX_SHARE = 0.01
_BLOCK = 1 << 22  # tokens copied at a time


def clean_corpus(
    folder: str | Path, out: str | Path, *, n: int = WORDS, max_share: float = MAX_SHARE, common: int = COMMON
) -> Corpus:
    """Copy a data folder without the training documents that share too much with an evaluation document.

    A training document that holds more than ``max_share`` of the shingles of one validation or test document goes
    whole: where both are editions of one text, the words in which they differ would stay behind otherwise, and so
    would what a model needs to know the rest. All others stay whole. Validation and test are not changed.

    The vocabulary keeps its tokens in their order, so its hash is the same and overall perplexities before and after
    compare (in bands they do not, since bands go by training counts). Its counts are of what is left, may be 0 and
    need not fall any more. ``meta.json`` lists what went and why.

    Args:
        n: words of a shingle.
        max_share: the largest share of an evaluation document that may stay, 0 to 1.
        common: a shingle in more training documents than this is boilerplate, and no reason.

    Raises:
        InputError: ``out`` is ``folder``, nothing would be left to train on, or see ``audit_corpus``.
    """
    folder, out = Path(folder), Path(out)
    corpus = open_corpus(folder)
    if out.resolve() == folder.resolve():
        raise InputError(f"{out}: this is the data folder itself, which is kept as it is. Name another folder.")
    found = audit(corpus, n=n, min_share=max_share, common=common)
    documents = documents_of(corpus, "train")
    kept_T = found.held <= max_share
    starts = np.append(0, np.cumsum(np.diff(documents.starts)[kept_T]))
    kept = Documents(list(compress(documents.names, kept_T)), starts)
    if not starts[-1]:
        raise InputError(
            f"{folder}: every training document holds more than {max_share:.2%} of an evaluation document, so nothing "
            "would be left to train on. Allow a larger share, or prepare the data with its documents kept apart."
        )
    with replacing(out, DATA, STALE) as new:
        for split in ("valid", "test"):
            for name in (f"{split}.tokens", f"{split}.documents.npz"):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, new / name)
        if corpus.documents("train"):
            write_documents(new / "train.documents.npz", kept)
        vocabulary = _write_train(corpus, documents, kept_T, new)
        dropped = _dropped(found, documents, np.flatnonzero(~kept_T))
        cleaned = {"from": str(folder), "n": n, "max_share": max_share, "common": common, "dropped": dropped}
        meta = _meta(corpus, vocabulary, kept) | {"cleaned": cleaned, "command": command_line()}
        write_json(new / "meta.json", meta)
    return open_corpus(out)


def _write_train(corpus: Corpus, documents: Documents, kept_T: npt.NDArray[np.bool_], out: Path) -> Vocabulary:
    """Write the training split and its vocabulary, and return that."""
    tokens = corpus.split("train")
    old = corpus.vocabulary
    counts = np.zeros(len(old), dtype=np.int64)

    def blocks() -> Iterator[npt.NDArray[np.uint32]]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], kept_T, [0]])))  # of the runs of kept documents
        for first, last in edges.reshape(-1, 2):
            stop = documents.starts[last]
            for start in range(documents.starts[first], stop, _BLOCK):
                block = tokens[start : min(start + _BLOCK, stop)]
                counts[:] += np.bincount(block, minlength=len(old))
                yield block

    write_tokens(out / "train.tokens", blocks(), old)
    vocabulary = Vocabulary(old.tokens, counts, old.tokenizer)
    vocabulary.save(out / "vocabulary.json")
    return vocabulary


def _dropped(found: Audit, documents: Documents, gone: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """The documents that went, and the evaluation document each of them holds most of."""
    sizes_T = np.diff(documents.starts)
    return [
        {
            "name": documents.names[i],
            "tokens": int(sizes_T[i]),
            "evaluation": found.places[found.of[i]].name,
            "split": found.places[found.of[i]].split,
            "share": float(found.held[i]),
        }
        for i in gone
    ]


def _meta(corpus: Corpus, vocabulary: Vocabulary, kept: Documents) -> dict[str, Any]:
    """The old meta.json with the numbers of the new training split."""
    meta = dict(corpus.meta)
    total = int(kept.starts[-1])
    meta["tokens"] = meta["tokens"] | {"train": total}
    if "train" in meta["unknown"]:
        meta["unknown"] = meta["unknown"] | {"train": int(vocabulary.counts[vocabulary.unk_id]) / total}
    if isinstance(meta.get("documents"), dict) and "train" in meta["documents"]:
        meta["documents"] = meta["documents"] | {"train": len(kept)}
    return meta
