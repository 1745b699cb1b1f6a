"""A datastore of a run: what its model makes of a text, written beside the run, and found again for the same weights.

Shape suffixes: N tokens of the text, D features.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from firstsight.errors import InputError
from firstsight.lab.data.tokens import text_hash
from firstsight.lab.lm.reader import reading
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.progress import Bar, say
from firstsight.memory import Datastore, DatastoreWriter
from firstsight.memory.datastore import compact, join

FOLDER = "memory/store"
SPLITS = ("train", "valid", "test")


def store_run(
    folder: str | Path,
    split: str = "train",
    *,
    out: str | Path | None = None,
    dtype: Literal["float16", "float32", "int8"] = "float16",
    index: Literal["ivf", "ivfpq", "hnsw"] | None = None,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Write a run's activations on a split, each with the token that followed, into a store; it knows its documents.

    Read in one stream, in blocks, the state carried through; killed, the same command reads again what is stored, for
    the state, and goes on writing behind it.

    Args:
        split: "train", "valid" or "test".
        out: the folder of the store; by default ``memory/store`` in the run's.
        dtype: of the keys: float16, float32 or int8.
        index: make an index too: ivf, ivfpq or hnsw, through faiss; its recall is measured and kept with it.
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run or its data are missing or damaged, or do not belong together; the folder holds something
            else, or a store of something else.
    """
    folder = Path(folder)
    with hold(folder, RUN, make=False):
        run = open_run(folder, checkpoint, data, device)
        tokens = np.asarray(run.corpus.split(split))
        path = Path(out) if out is not None else folder / FOLDER
        about = about_of(run, tokens, split)
        documents = run.corpus.documents(split)
        starts = {} if documents is None else {int(start): i for i, start in enumerate(documents.starts[:-1].tolist())}
        with (
            DatastoreWriter(path, run.model.rows.shape[1], about=about, dtype=dtype) as writer,
            reading(run.model),
            Bar(f"store {folder.name} {split}", len(tokens), start=writer.done) as bar,
        ):
            if writer.done and not writer.finished:
                say(f"{path}: going on after {writer.done:,} tokens")
            begin = len(tokens) if writer.finished else writer.done
            for segment in () if writer.finished else run.text(tokens, starts=starts):
                part = segment.part(begin, segment.stop)
                if not part.target.shape[1]:
                    continue
                if part.first in starts:
                    writer.new_document(starts[part.first])
                writer.append(part.hidden[0], part.target[0])
                bar.update(part.stop)
        store = Datastore.open(path, about)
        if index is not None and (store.index is None or store.index.kind != index):
            say(f"making the index {index} of {len(store):,} entries, and measuring what it finds")
            store.build_index(index)
        return stored_told(store)


def about_of(run: Run, tokens: np.ndarray, split: str) -> dict[str, Any]:
    """What a store of a run is of."""
    return {
        "checkpoint": run.weights()["sha256"],
        "vocabulary": run.vocabulary.hash,
        "corpus": run.corpus.name,
        "split": split,
        "text": text_hash(tokens),
    }


def open_store(run: Run, path: str | Path | None) -> Datastore:
    """The store of a run, by default the one in its folder; refused if it is of other weights or words."""
    path = run.folder / FOLDER if path is None else Path(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: there is no store, in which the neighbours are looked up. Write it with: firstsight store build "
            f"{run.folder}{f' --out {path}' if path != run.folder / FOLDER else ''}"
        )
    store = Datastore.open(path)
    ours = {"checkpoint": run.weights()["sha256"], "vocabulary": run.vocabulary.hash}
    if differing := [name for name, value in ours.items() if store.about.get(name) != value]:
        known = ", ".join(
            f"{name} {str(store.about.get(name))[:12]}, and here it is {ours[name][:12]}" for name in differing
        )
        raise InputError(
            f"{path}: this store is of another model or vocabulary: {known}. Its keys mean nothing to the run "
            f"{run.folder}. Write one of this run with: firstsight store build {run.folder} --out ANOTHER"
        )
    return store


def fingerprint(store: Datastore) -> str:
    """What differs between two stores whose searches may differ: their files, and what was deleted."""
    files = json.dumps(store.contents.sha256, sort_keys=True)
    return hashlib.sha256(files.encode() + store.deleted().tobytes()).hexdigest()


def stored_told(store: Datastore) -> dict[str, Any]:
    """What a store holds, in plain values."""
    found = store.index
    index = (
        None if found is None else {name: getattr(found, name) for name in ("kind", "lists", "probes", "k", "recall")}
    )
    return {
        "store": str(store.path),
        "entries": len(store),
        "deleted": store.count - len(store),
        "documents": len(store.documents),
        "dim": store.dim,
        "dtype": store.dtype,
        "bytes": sum(path.stat().st_size for path in store.path.glob("[!.]*")),
        "index": index,
        "about": dict(store.about),
    }


def store_info(folder: Path) -> dict[str, Any]:
    """What a store holds, all of which is checked."""
    with hold(folder, make=False):
        return stored_told(Datastore.open(folder))


def delete_from(
    folder: Path,
    *,
    document: int | None = None,
    word: str | None = None,
    entry: int | None = None,
    run: Path | None = None,
) -> dict[str, Any]:
    """Delete a document, all entries of a word of a run's vocabulary, or an entry; ``now`` says how many went.

    Raises:
        InputError: the store is damaged, or has no such document, word or entry.
    """
    with hold(folder, make=False):
        store = Datastore.open(folder)
        label = None if word is None else _label(store, word, run)
        now = store.delete(document=document, label=label, entries=None if entry is None else [entry])
        return {**stored_told(store), "now": now}


def _label(store: Datastore, word: str, run: Path | None) -> int:
    if run is None:
        raise InputError(f"the word {word!r} has a number in a run's vocabulary: name the run with --run.")
    vocabulary = open_run(run).vocabulary
    if vocabulary.hash != store.about.get("vocabulary"):
        raise InputError(f"{run}: {store.path} is of another vocabulary, whose numbers mean other words. Name its run.")
    if word not in vocabulary.tokens:
        raise InputError(f"{word!r} is no word of the vocabulary of {run}.")
    return vocabulary.tokens.index(word)


def compact_store(folder: Path, out: Path) -> dict[str, Any]:
    """Write a store anew without what was deleted from it."""
    with hold(folder, make=False):
        return stored_told(compact(Datastore.open(folder), out))


def join_stores(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write one store of several, which have to be of one checkpoint and vocabulary."""
    stores = [Datastore.open(folder) for folder in folders]
    common = {name: {str(store.about.get(name)) for store in stores} for name in ("checkpoint", "vocabulary")}
    if differing := [name for name, values in common.items() if len(values) > 1]:
        given = ", ".join(map(str, folders))
        raise InputError(f"{given} are of several models: {' and '.join(differing)} differ. Join those of one run.")
    about = {name: values.pop() for name, values in common.items()}
    about |= {name: " + ".join(str(store.about.get(name)) for store in stores) for name in ("corpus", "split", "text")}
    return stored_told(join(stores, out, about))
