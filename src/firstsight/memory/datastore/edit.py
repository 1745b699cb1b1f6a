"""A store made of others: without what was deleted, or of several put together."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from firstsight.errors import InputError
from firstsight.functional.tiling.tiles import slices
from firstsight.memory.datastore.files import Array, Value
from firstsight.memory.datastore.store import Datastore
from firstsight.memory.datastore.writer import DatastoreWriter

_ROWS = 2**14  # entries that are copied at once


def compact(store: Datastore, out: str | Path) -> Datastore:
    """Write a store without its deleted entries: their rows are nowhere in it. Returns the new one, opened.

    Entries are numbered anew, documents keep their numbers; an index is to be built anew. A copy that was killed goes
    on where it was.

    Args:
        store: an open one.
        out: the folder of the new one.

    Raises:
        InputError: (a ``ValueError``) see :class:`DatastoreWriter`.
    """
    return _copy([store], out, store.about, "compacted", keep_numbers=True)


def join(stores: Sequence[Datastore], out: str | Path, about: Mapping[str, Value]) -> Datastore:
    """Write one store of several, without deleted entries, one after another. Returns the new one, opened.

    Args:
        stores: open ones, with keys of one width and dtype. That they are of one model is for you to see to.
        out: the folder of the new one.
        about: what it is of.

    Returns:
        The new store. Its documents are numbered anew, from 0 in this order.

    Raises:
        InputError: (a ``ValueError``) there are none, or widths or dtypes differ; or see :class:`DatastoreWriter`.
    """
    if not stores or len({(store.dim, store.dtype) for store in stores}) > 1:
        given = ", ".join(f"{store.path}: {store.dim} x {store.dtype}" for store in stores)
        raise InputError(f"stores are [{given}]; expected one or more with keys of one width and dtype.")
    return _copy(stores, out, about, "joined", keep_numbers=False)


def _copy(
    stores: Sequence[Datastore], out: str | Path, about: Mapping[str, Value], made: str, *, keep_numbers: bool
) -> Datastore:
    # What is deleted is part of what the copy is of: one that was ended before more was deleted does not go on.
    of = hashlib.sha256(
        b"".join(store.contents.sha256["keys"].encode() + store.deleted().tobytes() for store in stores)
    )
    origin, first = f"{made} {of.hexdigest()[:16]}", stores[0]
    documents_M2 = np.concatenate([_documents(store) for store in stores])
    counts = np.array([len(store) for store in stores]).cumsum() - [len(store) for store in stores]
    documents_M2[:, 0] += np.repeat(counts, [len(_documents(store)) for store in stores])
    if not keep_numbers:
        documents_M2[:, 1] = np.arange(len(documents_M2))
    with DatastoreWriter(out, first.dim, about=about, dtype=first.dtype, origin=origin) as writer:
        begin, at = writer.done, 0
        for rows in (part for store in stores for part in _live(store)):
            last = at + len(rows["labels"])
            inside = [(p, number) for p, number in documents_M2.tolist() if max(at, begin) <= p < last]
            borders = [max(at, begin), *(position for position, _ in inside), last]
            for n, (start, stop) in enumerate(pairwise(borders)):
                if n:
                    writer.new_document(inside[n - 1][1])
                if start < stop:
                    writer.put({name: row[start - at : stop - at] for name, row in rows.items()})
            at = last
    return Datastore.open(out, about)


def _live(store: Datastore) -> Iterator[dict[str, Array]]:
    """The rows of each file that count, a part at a time."""
    live_N = ~store.deleted()
    for part in slices(store.count, _ROWS):
        yield {name: row[part][live_N[part]] for name, row in store.rows.items()}


def _documents(store: Datastore) -> Array:
    """Where each document that is left begins among the entries that count, and its number, [M, 2]."""
    if not store.count or not len(store.documents):
        return np.empty((0, 2), dtype=np.int64)
    left_M = np.add.reduceat((~store.deleted()).astype(np.int64), store.documents[:, 0])
    start_M = left_M.cumsum() - left_M
    return np.stack([start_M, store.documents[:, 1]], 1)[left_M > 0]
