"""The beginning of every document of a corpus, as a corpus of its own: what a long study can afford.

firstsight data gutenberg --from MIRRORS --out data/books-25 --books 25
python benchmarks/study/cut.py data/books-25 data/books-25-1m --train 40000 --valid 20000 --max-size 10000
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.data.corpus import save_corpus, training_vocabulary
from firstsight.lab.data.documents import Documents


def cut(corpus: Corpus, split: str, tokens: int) -> tuple[np.ndarray, Documents]:
    """The first so many tokens of each document of a split, one after the other."""
    documents, text = corpus.documents(split), corpus.split(split)
    if documents is None:
        raise SystemExit(f"{corpus.folder}: its {split} split knows of no documents")
    parts = [text[a : min(a + tokens, b)] for a, b in zip(documents.starts, documents.starts[1:], strict=False)]
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.concatenate([*parts, np.zeros(0, np.uint32)]), Documents(documents.names, starts)


def parted(text: np.ndarray, documents: Documents, count: int) -> dict[str, tuple[np.ndarray, Documents]]:
    """The last ``count`` documents of a validation text as a test text, for a corpus whose own is not at hand."""
    kept = len(documents.names) - count
    if not kept > 0:
        raise SystemExit(f"--test-documents {count}: the validation text has {len(documents.names)}, and must keep one")
    border = documents.starts[kept]
    first = Documents(documents.names[:kept], documents.starts[: kept + 1])
    return {
        "valid": (text[:border], first),
        "test": (text[border:], Documents(documents.names[kept:], documents.starts[kept:] - border)),
    }


def main(given: Any) -> None:
    """Cut, count the words anew and write the folder."""
    corpus = open_corpus(given.source)
    before, kept = corpus.vocabulary, {"train": given.train, "valid": given.valid}
    texts = {split: cut(corpus, split, tokens) for split, tokens in kept.items()}
    if given.test_documents:
        texts |= parted(*texts["valid"], given.test_documents)
    ids, occurrences = np.unique(texts["train"][0], return_counts=True)
    if given.whole_counts:
        ids, occurrences = np.arange(len(before)), before.counts
    counter = Counter(dict(zip(before.decode(ids), occurrences.tolist(), strict=True)))
    vocabulary = training_vocabulary(corpus.name, counter, before.tokenizer, max_size=given.max_size)
    new_id_V = vocabulary.encode(before.tokens)
    blocks = {"test": []} | {split: [new_id_V[text]] for split, (text, _) in texts.items()}
    described = {
        "types": len(counter),
        "min_count": 1,
        "max_size": given.max_size,
        "cut": kept,
        "test_of_valid": given.test_documents,
    }
    described |= {"whole_counts": given.whole_counts}
    described |= {"sources": corpus.meta["sources"], "of": str(given.source), "of_vocabulary": before.hash}
    documents = {split: documents for split, (_, documents) in texts.items()}
    made = save_corpus(given.out, corpus.name, vocabulary, blocks, described, documents=documents, may_be_empty=True)
    print(f"{given.out}: {made.meta['tokens']}, {len(vocabulary):,} types; next: firstsight study")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a data folder that knows its documents")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=40_000, help="tokens of each training document")
    parser.add_argument("--valid", type=int, default=20_000)
    parser.add_argument(
        "--test-documents",
        type=int,
        default=0,
        metavar="N",
        help="take the last N validation documents as the test text",
    )
    parser.add_argument("--max-size", type=int, default=10_000)
    parser.add_argument(
        "--whole-counts", action="store_true", help="rank words as the whole text does, not the cut one"
    )
    main(parser.parse_args())
