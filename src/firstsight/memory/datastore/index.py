"""An approximate index of a store's keys, by faiss: it gives candidates, whose distances are then exact.

Shape suffixes: Q queries, X candidates, K neighbours, D features, R rows that are added at once.
"""

import hashlib
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiling.tiles import slices
from firstsight.memory.datastore.contents import Contents
from firstsight.memory.datastore.files import (
    FORMAT,
    VERSION,
    Array,
    check_version,
    page,
    put_in_place,
    read_page,
    read_some,
    sync_folder,
)
from firstsight.memory.datastore.keys import Keys
from firstsight.memory.store import check_whole

Kind = Literal["ivf", "ivfpq", "hnsw"]
KINDS = ("ivf", "ivfpq", "hnsw")
HEADER, CODES = "index.json", "index.faiss"
_FORMAT = f"{FORMAT}, index"
_ROWS = 2**15  # keys that are added at once
_SAMPLE = 64  # keys a list that its centres are learnt from
_QUERIES = 256  # on which recall is measured
_LINKS = 32  # of a node of the graph


class Approximation:
    """An index of the entries 0 to ``count`` - 1.

    Args:
        index: of faiss.
        kind: what it is.
        probes: lists that a query looks into; of a graph, twice k is what it keeps in sight.
    """

    def __init__(self, index: Any, kind: Kind, probes: int) -> None:
        self.index, self.kind, self.probes = index, kind, probes

    @property
    def count(self) -> int:
        """How many entries it has."""
        return int(self.index.ntotal)

    def add(self, keys: Keys, stop: int) -> None:
        """Add the entries from those it has to ``stop``."""
        set_threads()
        row_RD = torch.empty(min(_ROWS, max(stop - self.count, 1)), keys.dim)
        for part in slices(stop - self.count, _ROWS):
            part = slice(self.count, min(self.count + _ROWS, stop))
            keys.into(row_RD[: part.stop - part.start], part)
            self.index.add(row_RD[: part.stop - part.start].numpy())

    def candidates(self, query_QD: Tensor, k: int, deleted: Array | None = None) -> Tensor:
        """At least k entries near each query where there are so many, [Q, X] int64, -1 for none.

        Args:
            query_QD: [Q, D].
            k: how many are needed.
            deleted: bits of the entries that are not to be found, as a store keeps them.
        """
        faiss = load_faiss()
        set_threads()
        X = min(2 * k if self.kind == "ivfpq" else k, self.count)  # codes err, distances of twice as many do not
        kept = {} if deleted is None else {"sel": faiss.IDSelectorNot(faiss.IDSelectorBitmap(deleted))}
        if self.kind == "hnsw":
            settings = faiss.SearchParametersHNSW(efSearch=2 * X, **kept)
        else:
            settings = faiss.SearchParametersIVF(nprobe=self.probes, **kept)
        query = np.ascontiguousarray(query_QD.float().cpu().numpy())
        return torch.from_numpy(self.index.search(query, X, params=settings)[1]).to(query_QD.device)


def learn(keys: Keys, kind: Kind, lists: int, probes: int) -> Approximation:
    """An empty index for such keys: its lists' centres, and codes, are learnt from a sample of them."""
    faiss = load_faiss()
    set_threads()
    parts = max(m for m in range(1, max(1, keys.dim // 4) + 1) if keys.dim % m == 0)
    codes = {"ivf": f"IVF{lists},SQfp16", "ivfpq": f"IVF{lists},PQ{parts}x8", "hnsw": f"HNSW{_LINKS},SQfp16"}
    index = faiss.index_factory(keys.dim, codes[kind])
    if kind == "ivfpq":
        index.do_polysemous_training = False  # seconds for each byte of a code, for a filter that is not used here
    size = min(keys.count, max(_SAMPLE * lists, 2**14))
    sample = np.sort(np.random.default_rng(0).choice(keys.count, size, replace=False))
    index.train(keys.at(torch.from_numpy(sample)).float().numpy())
    return Approximation(index, kind, probes)


@dataclass(frozen=True)
class Index:
    """An approximate index as it lies in a store's folder, and how good it is.

    Attributes:
        kind: "ivf", "ivfpq" or "hnsw".
        lists: into how many lists the keys are sorted; 1 for a graph.
        probes: how many of them a query looks into.
        k: neighbours for which recall was measured.
        queries: on so many queries.
        recall: the share of the k nearest entries that it finds.
        of: the checksum of the keys that it is of.
        bytes, sha256: size and checksum of its file.
        approximation: what is searched.
    """

    kind: Kind
    lists: int
    probes: int
    k: int
    queries: int
    recall: float
    of: str
    bytes: int
    sha256: str
    approximation: Approximation


class Searched(Protocol):
    """What an index needs of a :class:`Datastore`."""

    path: Path
    contents: Contents
    keys: Keys
    index: Index | None

    def search(
        self, query: Tensor, k: int, *, exclude: Tensor | None = None, approximate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Datastore.search`."""


_VALUES = [field.name for field in fields(Index) if field.name != "approximation"]


def build_index(store: Searched, kind: Kind, lists: int | None, probes: int, k: int, query: Tensor | None) -> Index:
    """See :meth:`Datastore.build_index`."""
    for name, value in (("lists", lists), ("probes", probes), ("k", k)):
        if value is not None:
            check_whole(name, value)
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    least = 256 if kind == "ivfpq" else 1  # a code has 256 values
    if store.keys.count < least:
        raise InputError(
            f"{store.path} has {store.keys.count} entries, and {kind} needs {least} to learn. Search exactly."
        )
    lists = 1 if kind == "hnsw" else min(lists or 2 ** round(math.log2(store.keys.count) / 2), store.keys.count)
    made = learn(store.keys, kind, lists, probes)
    made.add(store.keys, store.keys.count)
    (store.path / HEADER).unlink(missing_ok=True)  # of the one before, whose codes are about to go
    beside = store.path / f"{CODES}.new"
    load_faiss().write_index(made.index, str(beside))
    sha256 = _digest(beside, sync=True)
    os.replace(beside, store.path / CODES)
    sync_folder(store.path)
    size, of = (store.path / CODES).stat().st_size, store.contents.sha256["keys"]
    index = Index(kind, lists, probes, k, 0, 0.0, of, size, sha256, _load(store.path, kind, probes))
    own = None
    if query is None:
        own = torch.from_numpy(
            np.random.default_rng(1).choice(store.keys.count, min(_QUERIES, store.keys.count), False)
        )
        query = store.keys.at(own).float()
    store.index = index
    index = replace(index, queries=len(query), recall=recall(store, query, k, own))
    values = {name: getattr(index, name) for name in _VALUES}
    with put_in_place(store.path / HEADER) as file:
        file.write(page({"format": _FORMAT, "version": VERSION, **values}))
    return index


def recall(store: Searched, query_QD: Tensor, k: int, own_Q: Tensor | None = None) -> float:
    """The share of the k nearest entries of these queries that a store's index finds.

    Args:
        store: one with an index.
        query_QD: [Q, D].
        k: 1 or more.
        own_Q: [Q] the entry that each query is itself, or -1.
    """
    exact_QK, found_QK = (
        store.search(query_QD, k, exclude=own_Q, approximate=approximate)[1] for approximate in (False, True)
    )
    pairs = [
        (exact_K[exact_K >= 0], found_K) for exact_K, found_K in zip(exact_QK.numpy(), found_QK.numpy(), strict=True)
    ]
    found = sum(int(np.isin(exact_K, found_K).sum()) for exact_K, found_K in pairs)
    return found / max(1, sum(len(exact_K) for exact_K, _ in pairs))


def open_index(folder: Path, contents: Contents, *, check: bool) -> Index | None:
    """The index in a store's folder, or None; InputError where it is damaged, or of other keys."""
    path = folder / HEADER
    if not path.exists():
        return None
    mend = f"Remove {path}, or build the index again."
    try:
        values = read_page(read_some(path, "what an index is"))
    except ValueError as error:
        raise InputError(f"{path}: this should say what an index is of, but was altered ({error}). {mend}") from error
    check_version(path, values, _FORMAT)
    if values["of"] != contents.sha256["keys"]:
        raise InputError(
            f"{path}: this index is of keys with the checksum {values['of'][:12]}, and those here have "
            f"{contents.sha256['keys'][:12]}: it is of another store. {mend}"
        )
    codes = folder / CODES
    size = codes.stat().st_size if codes.is_file() else -1
    if size != values["bytes"] or (check and _digest(codes) != values["sha256"]):
        raise InputError(
            f"{codes}: this should be an index of {values['bytes']:,} bytes with the checksum "
            f"{values['sha256'][:12]}, and it is missing, was cut short or altered. {mend}"
        )
    index = _load(folder, values["kind"], values["probes"])
    return Index(**{name: values[name] for name in _VALUES}, approximation=index)


def _load(folder: Path, kind: Kind, probes: int) -> Approximation:
    """The index with its lists read through a memory map."""
    faiss = load_faiss()
    index = faiss.read_index(str(folder / CODES), faiss.IO_FLAG_MMAP)
    return Approximation(index, kind, probes)


def _digest(path: Path, *, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_faiss() -> Any:
    """The library, asked for when an index is; InputError where it is not there."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "an approximate index needs faiss, the extra faiss: pip install 'firstsight[faiss]'. Or search exactly."
        ) from error
    return faiss


def set_threads() -> None:
    """faiss brings an OpenMP of its own: as many threads as torch uses, or they are in each other's way."""
    load_faiss().omp_set_num_threads(torch.get_num_threads())
