"""A corpus on disk: a folder of one vocabulary, three token files and meta.json, which is written last."""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.data.documents import Documents, open_documents, write_documents
from firstsight.lab.data.tokenize import tokenize
from firstsight.lab.data.tokens import open_tokens, write_tokens
from firstsight.lab.data.vocabulary import EOS, Vocabulary
from firstsight.lab.system.files import read_json, sha256, write_json
from firstsight.lab.system.folder import DATA
from firstsight.lab.system.machine import command_line
from firstsight.lab.system.manifest import listed
from firstsight.lab.system.replace import finish_replacing, replacing
from firstsight.lab.system.shape import NUMBER_OR_NULL, OBJECT, TEXT, WHOLE, Kind, Named, check_shape, is_whole, or_null

SPLITS = ("train", "valid", "test")
_META = {
    "tokens": dict.fromkeys(SPLITS, WHOLE),
    "vocabulary?": WHOLE,
    "vocabulary_hash": TEXT,
    "unknown": Named(NUMBER_OR_NULL),
    "documents?": Named(WHOLE),
    "sources?": [OBJECT],
    "paper_tokens?": or_null(Named(Kind(lambda value: is_whole(value, 1), "a whole number from 1"))),
}
OMNIGLOT = "omniglot"  # the corpus that is no text: its folders are opened by firstsight.lab.data.omniglot
IMAGES = "images.npy"
STALE = ("audit.json", "plots/zipf.png", IMAGES, *(f"{split}.documents.npz" for split in SPLITS))
_BLOCK = 1 << 18  # tokens encoded at a time

Lines = Callable[[], Iterable[str]]
"""Gives the lines of a split from the beginning, each time it is called: splits are read more than once."""


@dataclass(frozen=True)
class Corpus:
    """A prepared data folder.

    Attributes:
        folder: where it lies.
        name: "wikitext-2", "stdlib", "text" and so on.
        vocabulary: its vocabulary, with the counts of training.
        meta: what meta.json holds: sources, token counts, the command and versions that made it.
    """

    folder: Path
    name: str
    vocabulary: Vocabulary
    meta: dict[str, Any]

    def split(self, name: str) -> np.memmap:
        """The tokens of "train", "valid" or "test": uint32 [N], read-only, checked anew at each call.

        Raises:
            InputError: there is no such split, or its file does not pass the checks of ``open_tokens``.
        """
        if name not in SPLITS:
            raise InputError(f"The split is {name!r}; expected one of {', '.join(SPLITS)}.")
        return open_tokens(self.folder / f"{name}.tokens", self.vocabulary.hash)

    @property
    def identity(self) -> dict[str, str]:
        """The digests of its splits, by file; empty where the folder has no manifest."""
        names = [f"{split}.tokens" for split in SPLITS]
        return {name: digest for name, digest in listed(self.folder).items() if name in names}

    def documents(self, name: str) -> Documents | None:
        """Where the documents of a split begin; ``None`` in a corpus that knows of none."""
        if name not in self.meta.get("documents", {}):
            return None
        return open_documents(self.folder / f"{name}.documents.npz", self.meta["tokens"][name])


def open_corpus(folder: str | Path) -> Corpus:
    """Open a data folder.

    Raises:
        InputError: it is no data folder, was not finished, holds no text, or its vocabulary is damaged or another
            corpus's.
    """
    folder = Path(folder)
    meta = read_meta(folder, "a data folder: make one with firstsight data", "Run the firstsight data command again")
    if not isinstance(meta, dict) or meta.get("complete") is not True or not isinstance(meta.get("corpus"), str):
        raise InputError(
            f"{folder}: meta.json does not describe a finished corpus. Run the firstsight data command again."
        )
    if meta["corpus"] == OMNIGLOT:
        raise InputError(
            f"{folder}: this data folder holds the drawings of Omniglot, and text is needed here. Use the folder of a "
            "corpus of text: firstsight data stdlib, text, wikitext-2, wikitext-103, gutenberg and gigaword make them."
        )
    check_shape(meta, _META, str(folder / "meta.json"), "Run the firstsight data command again.")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    if vocabulary.hash != meta.get("vocabulary_hash"):
        raise InputError(
            f"{folder}: vocabulary.json is not the one that meta.json was written for: files of two corpora are mixed "
            "in this folder. Run the firstsight data command again."
        )
    return Corpus(folder, meta["corpus"], vocabulary, meta)


def read_meta(folder: Path, expected: str, make: str) -> Any:
    """The meta.json of a data folder; errors end with what was ``expected``, and how to ``make`` it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Expected {expected}.")
    finish_replacing(folder, DATA)
    path = folder / "meta.json"
    if not path.exists():
        raise InputError(
            f"{folder}: this data folder is unfinished, or is none: it has no meta.json, which is written last. {make}."
        )
    return read_json(path, "the description of a data folder")


def summary(corpus: Corpus) -> dict[str, Any]:
    """What ``firstsight data`` prints as JSON; the shares of unknown tokens are between 0 and 1."""
    counts = {name: corpus.meta[name] for name in ("tokens", "vocabulary", "unknown")}
    return {"corpus": corpus.name, "folder": str(corpus.folder), **counts}


def write_corpus(
    folder: str | Path,
    name: str,
    splits: Mapping[str, Lines],
    *,
    tokenizer: str,
    sources: Sequence[Mapping[str, Any]],
    min_count: int = 1,
    max_size: int | None = None,
    expected: Mapping[str, int] | None = None,
) -> Corpus:
    """Tokenise the lines of three splits into a data folder; every line ends with ``<eos>``.

    The vocabulary comes from training alone, in a first pass over its lines; a second pass encodes. Memory holds the
    vocabulary and one block of tokens.

    Args:
        folder: the data folder; made where it is missing.
        name: the corpus's name.
        splits: the lines of "train", "valid" and "test".
        tokenizer: a name that ``firstsight.lab.data.tokenize`` knows.
        sources: name, size, sha256 and so on of what was read, for meta.json.
        min_count: types that training has fewer times become ``<unk>``.
        max_size: the most types, ``<unk>`` and ``<eos>`` included; the rarest become ``<unk>``.
        expected: known numbers of tokens by split, and of "vocabulary"; others are an error.

    Raises:
        InputError: a split without tokens, no word that occurs ``min_count`` times, or numbers that differ from
            ``expected``.
    """
    counter: Counter[str] = Counter()
    for tokens in _tokenized(splits["train"], tokenizer):
        counter.update(tokens)
    vocabulary = training_vocabulary(name, counter, tokenizer, min_count, max_size)
    blocks = {split: _encoded(_tokenized(splits[split], tokenizer), vocabulary) for split in SPLITS}
    described = {"types": len(counter), "min_count": min_count, "max_size": max_size, "sources": sources}
    return save_corpus(folder, name, vocabulary, blocks, described, expected=expected)


def training_vocabulary(
    name: str, counter: Mapping[str, int], tokenizer: str, min_count: int = 1, max_size: int | None = None
) -> Vocabulary:
    """The vocabulary of the occurrences that training has; an error where there are none, or none frequent enough."""
    if not counter:
        raise _no_text(name, "train")
    vocabulary = Vocabulary.build(counter, tokenizer=tokenizer, min_count=min_count, max_size=max_size)
    if len(vocabulary) == 2:
        raise InputError(
            f"{name}: no word of the {sum(counter.values()):,} tokens of training occurs {min_count} times. "
            "Give more text, or a smaller --min-count."
        )
    return vocabulary


def save_corpus(
    folder: str | Path,
    name: str,
    vocabulary: Vocabulary,
    blocks: Mapping[str, Iterable[npt.NDArray[np.uint32]]],
    described: Mapping[str, Any],
    *,
    documents: Mapping[str, Documents] | None = None,
    expected: Mapping[str, int] | None = None,
    may_be_empty: bool = False,
) -> Corpus:
    """``write_corpus`` for splits that are encoded: ``blocks`` are the ids of "train", "valid" and "test", in pieces.

    An older corpus in the folder stays until the new one is whole, and then makes room with all that was made of it.

    Args:
        described: what else meta.json shall say: sources and so on.
        documents: where documents begin, of the splits that have any.
        may_be_empty: a split without tokens is no error.
    """
    with replacing(folder, DATA, STALE) as new:
        _write_parts(new, name, vocabulary, blocks, described, documents or {}, expected, may_be_empty)
    return open_corpus(folder)


def _write_parts(
    folder: Path,
    name: str,
    vocabulary: Vocabulary,
    blocks: Mapping[str, Iterable[npt.NDArray[np.uint32]]],
    described: Mapping[str, Any],
    documents: Mapping[str, Documents],
    expected: Mapping[str, int] | None,
    may_be_empty: bool,
) -> None:
    """The files of a corpus, meta.json last."""
    vocabulary.save(folder / "vocabulary.json")
    tokens: dict[str, int] = {}
    unknown: Counter[str] = Counter()

    def counted(split: str) -> Iterator[npt.NDArray[np.uint32]]:
        for ids in blocks[split]:
            unknown[split] += int(np.count_nonzero(ids == vocabulary.unk_id))
            yield ids

    for split in SPLITS:
        tokens[split] = write_tokens(folder / f"{split}.tokens", counted(split), vocabulary)
        if not tokens[split] and not may_be_empty:
            raise _no_text(name, split)
        if split in documents:
            write_documents(folder / f"{split}.documents.npz", documents[split])
    if expected:
        _compare(name, {**tokens, "vocabulary": len(vocabulary)}, expected)
    meta = {
        "corpus": name,
        "tokens": tokens,
        "documents": {split: len(documents[split]) for split in documents},
        "vocabulary": len(vocabulary),
        "vocabulary_hash": vocabulary.hash,
        "unknown": {split: unknown[split] / tokens[split] if tokens[split] else None for split in ("valid", "test")},
        "tokenizer": vocabulary.tokenizer,
        **described,
        "command": command_line(),
        "firstsight": __version__,
        "python": platform.python_version(),
        "complete": True,
    }
    write_json(folder / "meta.json", meta)


def _no_text(name: str, split: str) -> InputError:
    return InputError(f"{name}: the {split} split holds no text. Put text into it, and run the command again.")


def file_source(path: Path, root: Path | None = None) -> dict[str, Any]:
    """The entry of a file in ``sources``: its name (its path under ``root``), its bytes, its SHA-256."""
    name = path.relative_to(root).as_posix() if root else path.name
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _tokenized(lines: Lines, tokenizer: str) -> Iterator[list[str]]:
    for line in lines():
        yield [*tokenize(line, tokenizer), EOS]


def _encoded(lines: Iterable[list[str]], vocabulary: Vocabulary) -> Iterator[npt.NDArray[np.uint32]]:
    pending: list[str] = []
    for tokens in lines:
        pending += tokens
        if len(pending) >= _BLOCK:
            yield vocabulary.encode(pending)
            pending = []
    if pending:
        yield vocabulary.encode(pending)


def _compare(name: str, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    differences = [f"{what} {found[what]:,} instead of {n:,}" for what, n in expected.items() if found[what] != n]
    if differences:
        raise InputError(
            f"{name}: this is not the corpus as it is distributed: {', '.join(differences)}. The source was cut short "
            "or altered, or is another corpus: fetch it anew, or use firstsight data text for your own text."
        )
