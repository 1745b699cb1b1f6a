"""Large corpora piece by piece: every source file becomes a shard of its own, on all cores, then shards are joined.

A shard holds its tokens as ids of its own small vocabulary. So text is tokenised once, in parallel; the joint
vocabulary is the sum of the shards' counts; and encoding is one table look-up a shard. Nothing of it depends on the
number of processes, and a killed run goes on with the shards that it finds.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_array, load_arrays
from firstsight.lab.data.corpus import SPLITS, Corpus, save_corpus, training_vocabulary
from firstsight.lab.data.documents import Documents
from firstsight.lab.data.vocabulary import EOS, Vocabulary
from firstsight.lab.system.files import atomic_write, naming, parse_json
from firstsight.lab.system.progress import say
from firstsight.lab.system.shape import OBJECT, TEXT, Kind, Shape

CONTENT = ("documents", "types", "ids")
_BROKEN = ("this piece of the corpus", "Delete it, and run again.")
_DOCUMENT = Kind(
    lambda of: isinstance(of, list) and [type(one) for one in of] == [str, str, int] and of[2] >= 0,
    "the split, name and tokens of a document",
)


class Add(Protocol):
    """Takes one document into a shard: the split, the document's name, its lines in tokens (no ``<eos>``)."""

    def __call__(self, split: str, name: str, lines: Iterable[list[str]]) -> None:
        """Add a document."""


@dataclass(frozen=True)
class Item:
    """One source file, and how it becomes a shard.

    Attributes:
        key: the shard's name, unique in the corpus.
        size: bytes of the source, for the progress bar.
        fingerprint: what decides the shard's content; a shard with another one is made anew.
        work: gives all documents to its argument and returns what is to be reported of the file. It runs in another
            process, so it must be picklable.
    """

    key: str
    size: int
    fingerprint: str
    work: Callable[[Add], dict[str, Any]]


def make_shard(folder: Path, item: Item) -> str:
    """Make the shard of an item, unless it is there; returns its key."""
    path, fingerprint = folder / f"{item.key}.npz", f"firstsight {__version__}\n{item.fingerprint}"
    if _fingerprint(path) != fingerprint:
        builder = _Builder()
        builder.write(path, fingerprint, item.work(builder.add))
    return item.key


class _Builder:
    def __init__(self) -> None:
        self.local = {EOS: 0}
        self.ids: list[npt.NDArray[np.uint32]] = []
        self.documents: list[tuple[str, str, int]] = []

    def add(self, split: str, name: str, lines: Iterable[list[str]]) -> None:
        local, ids = self.local, []
        for line in lines:
            ids += [local.setdefault(token, len(local)) for token in line]
            ids.append(0)
        self.ids.append(np.array(ids, dtype=np.uint32))
        self.documents.append((split, name, len(ids)))

    def write(self, path: Path, fingerprint: str, report: dict[str, Any]) -> None:
        content = {
            "documents": _bytes(json.dumps(self.documents)),
            "types": _bytes("\n".join(self.local)),  # tokens hold no white space
            "ids": np.concatenate([*self.ids, np.empty(0, dtype=np.uint32)]),
        }
        about = {"fingerprint": fingerprint, "report": report, "sha256": _digest(content)}
        with atomic_write(path, "wb") as file:
            arrays: dict[str, Any] = {"about": _bytes(json.dumps(about)), **content}
            np.savez(file, **arrays)


def _digest(content: Mapping[str, npt.NDArray[Any]]) -> str:
    """Of a shard's arrays: it lies in a hidden folder, of whose files no manifest is kept."""
    digest = hashlib.sha256()
    for name in CONTENT:
        digest.update(f"{name} {content[name].dtype} {content[name].shape}".encode() + content[name].tobytes())
    return digest.hexdigest()


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _json(path: Path, name: str, shape: Shape) -> Any:
    return parse_json(load_array(path, name, *_BROKEN).tobytes(), str(path), _BROKEN[0], shape, _BROKEN[1])


def _fingerprint(path: Path) -> str | None:
    try:
        about = _json(path, "about", {"fingerprint": TEXT, "sha256": TEXT})
        whole = about["sha256"] == _digest(load_arrays(path, CONTENT, *_BROKEN))
    except InputError:  # a damaged one is made anew
        return None
    return str(about["fingerprint"]) if whole else None


class Shards:
    """The shards of a corpus, in their order, to be joined."""

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder, self.keys = folder, list(keys)

    def _naming(self, key: str) -> AbstractContextManager[None]:
        return naming(self.folder / f"{key}.npz", "a piece of the corpus", _BROKEN[1])

    def _array(self, key: str, name: str) -> npt.NDArray[Any]:
        return load_array(self.folder / f"{key}.npz", name, *_BROKEN)

    def reports(self) -> dict[str, dict[str, Any]]:
        """What was reported of each source file, by key."""
        return {key: _json(self.folder / f"{key}.npz", "about", {"report": OBJECT})["report"] for key in self.keys}

    def count(self, splits: Sequence[str]) -> Counter[str]:
        """Occurrences of every type in some splits, ``<eos>`` included."""
        counter: Counter[str] = Counter()
        for key in self.keys:
            with self._naming(key):
                ids = self._ids(key, splits)
                if ids.size:
                    types = self._types(key)
                    counts = np.bincount(ids, minlength=len(types)).tolist()
                    counter.update({token: count for token, count in zip(types, counts, strict=True) if count})
        return counter

    def encode(self, split: str, vocabulary: Vocabulary) -> Iterator[npt.NDArray[np.uint32]]:
        """The ids of a split in a vocabulary, a shard at a time."""
        for key in self.keys:
            with self._naming(key):
                ids = self._ids(key, [split])
                if ids.size:
                    ids = vocabulary.encode(self._types(key))[ids]
            if ids.size:
                yield ids

    def document_counts(self) -> dict[str, int]:
        """The number of documents of each split."""
        counts: Counter[str] = Counter(split for key in self.keys for split, _, _ in self._documents(key))
        return {split: counts[split] for split in SPLITS}

    def documents(self) -> dict[str, Documents]:
        """The documents of each split that has any."""
        names: Mapping[str, list[str]] = {split: [] for split in SPLITS}
        sizes: Mapping[str, list[int]] = {split: [] for split in SPLITS}
        for key in self.keys:
            for split, name, size in self._documents(key):
                names[split].append(name)
                sizes[split].append(size)
        starts = {split: np.cumsum([0, *sizes[split]], dtype=np.int64) for split in SPLITS}
        return {split: Documents(names[split], starts[split]) for split in SPLITS if names[split]}

    def _documents(self, key: str) -> list[tuple[str, str, int]]:
        """Read each time: the names of ten million articles take more memory than anything else here."""
        found = _json(self.folder / f"{key}.npz", "documents", [_DOCUMENT])
        return [(split, name, size) for split, name, size in found]

    def _types(self, key: str) -> list[str]:
        return self._array(key, "types").tobytes().decode().split("\n")

    def _ids(self, key: str, splits: Sequence[str]) -> npt.NDArray[np.uint32]:
        documents = self._documents(key)
        inside = [split in splits for split, _, _ in documents]
        if not any(inside):
            return np.empty(0, dtype=np.uint32)
        ids = self._array(key, "ids")
        return ids if all(inside) else ids[np.repeat(inside, [size for _, _, size in documents])]


def join_shards(
    out: Path,
    name: str,
    shards: Shards,
    described: Mapping[str, Any],
    *,
    tokenizer: str,
    min_count: int = 1,
    max_size: int | None = None,
) -> Corpus:
    """Make the data folder of all shards, whose folder lies inside of it, and remove them.

    The vocabulary is that of training, within ``min_count`` and ``max_size`` as in ``Vocabulary.build``. Where there is
    no training text (a few books to be looked at), it is every type there is, each with a training count of zero.
    ``described`` is what meta.json shall say beside counts and versions.
    """
    for left in out.glob(".*.part"):  # of a run that was killed while it wrote
        left.unlink()
    counter = shards.count(["train"])
    if counter:
        vocabulary = training_vocabulary(name, counter, tokenizer, min_count, max_size)
    else:
        say(f"{name}: there is no training text: the vocabulary is that of the other splits; nothing can train on it")
        every = shards.count(SPLITS)
        if not every:
            raise InputError(f"{name}: no document of any split holds text. Give other sources, or other options.")
        seen = Vocabulary.build(every, tokenizer=tokenizer, min_count=min_count, max_size=max_size)
        vocabulary = Vocabulary(seen.tokens, np.zeros(len(seen), dtype=np.int64), tokenizer)
    described = {"types": len(counter), "min_count": min_count, "max_size": max_size, **described}
    del counter  # of a large corpus it is as large as the vocabulary
    blocks = {split: shards.encode(split, vocabulary) for split in SPLITS}
    corpus = save_corpus(out, name, vocabulary, blocks, described, documents=shards.documents(), may_be_empty=True)
    shutil.rmtree(shards.folder)
    return corpus
