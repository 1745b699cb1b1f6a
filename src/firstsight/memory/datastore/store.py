"""A finished store: searched, and its entries deleted.

Shape suffixes: Q queries, K neighbours, D features, N entries.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.memory.datastore.contents import DOCUMENTS, Contents, check_about, read_contents
from firstsight.memory.datastore.files import Array, Value, open_column, write_column
from firstsight.memory.datastore.index import Index, Kind, build_index, open_index
from firstsight.memory.datastore.keys import Keys, columns
from firstsight.memory.datastore.search import Seen, closest, nearest
from firstsight.memory.store import check_finite, check_whole

_BITS_BLOCK = 2**22  # bytes of tombstones that one checksum is of


class Datastore:
    """Activations and the labels that followed them, on the disk: what :class:`DatastoreWriter` wrote.

    Keys and labels are read through memory maps: the pages that a search touches are the system's, and go when others
    need the room. What it holds of its own is a bit an entry.

    Attributes:
        path: the folder.
        about: what the store is of.
        count: N, all entries, the deleted ones too: they are numbered 0 to N - 1 for good. ``len`` counts the others.
        dim: D, the width of the activations.
        labels: [N] int64, a memory map.
        documents: [M, 2] int64: the first entry and the number of each document.
        index: the approximate index, or None.
    """

    def __init__(self, path: Path, contents: Contents, rows: Mapping[str, Array], documents: Array) -> None:
        """Of files that were checked: see :meth:`open`."""
        self.path, self.about, self.contents = path, contents.about, contents
        self.count, self.dim, self.dtype = contents.count, contents.dim, contents.dtype
        self.rows, self.labels, self.documents = rows, rows["labels"], documents
        self.keys = Keys(rows["keys"], rows.get("scales"))
        self.index: Index | None = None
        self._deleted = np.zeros(contents.tombstone_bytes, dtype=np.uint8)
        self._live = contents.count

    @classmethod
    def open(cls, path: str | Path, about: Mapping[str, Value] | None = None, *, check: bool = True) -> "Datastore":
        """Open a store after checking all of it.

        Args:
            path: the folder.
            about: what it is to be of, by name; None takes it whatever it is of.
            check: hold all rows against their checksums too, about a second for each gigabyte: a store of 10^7 entries
                of D = 128 has 2.6. Without it only headers, sizes and the checksums of small files are checked.

        Raises:
            InputError: (a ``ValueError``) a file is missing, damaged, cut short, of another store or version; the
                store is of something else than ``about``, or was not built to its end. The message names the file.
        """
        path = Path(path)
        contents = read_contents(path)
        if about is not None:
            check_about(path, contents.about, dict(about))
        rows = {
            column.name: open_column(path, column, contents.count, contents.sha256[column.name], check=check)
            for column in columns(contents.dim, contents.dtype)
        }
        documents = open_column(path, DOCUMENTS, contents.documents, contents.sha256[DOCUMENTS.name], check=True)
        store = cls(path, contents, rows, documents)
        store.refresh()
        store.index = open_index(path, contents, check=check)
        return store

    def __len__(self) -> int:
        """How many entries count."""
        return self._live

    def search(
        self, query: Tensor, k: int, *, exclude: Tensor | None = None, approximate: bool = False
    ) -> tuple[Tensor, Tensor]:
        r"""The k nearest entries of each query by :math:`|h_q - h_j|^2`, the nearest first, the later of equals.

        Exact of the keys as they are stored, rounded to float16 or int8: distances are summed in float64. Cost:
        2 N D operations a query, and a conversion of all keys for every 512 queries of a call. With ``approximate``
        the candidates are the index's, and their distances exact.

        Args:
            query: [Q, D] float, finite.
            k: K, 1 or more.
            exclude: [Q] int64 an entry that each query is not to find, or -1.
            approximate: ask the index, which :meth:`build_index` made.

        Returns:
            Squared distances [Q, K] float32 and entries [Q, K] int64, K = min(k, N), on the query's device. Where a
            query finds fewer, infinite and -1.

        Raises:
            InputError: (a ``ValueError``) an argument is not as above, or there is no index.
        """
        check_whole("k", k)
        if query.ndim != 2 or query.shape[1] != self.dim or not query.is_floating_point():
            raise InputError(
                f"query is {query.dtype} of shape {list(query.shape)}; expected floating point [Q, {self.dim}]: the "
                f"keys of {self.path} are that wide."
            )
        check_finite(query)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            if not approximate:
                return nearest(self.keys, query, k, Seen(self._dead, exclude=exclude))
            more = 0 if exclude is None else 1
            index_QX = self._index().approximation.candidates(query, k + more, self._deleted)
            if exclude is not None:
                index_QX.masked_fill_(index_QX == exclude[:, None], -1)
            squared_QK, index_QK = closest(self.keys, query, index_QX, min(k, self.count))
            return squared_QK.float(), index_QK.masked_fill_(squared_QK == math.inf, -1)

    def delete(
        self, *, entries: Iterable[int] | None = None, document: int | None = None, label: int | None = None
    ) -> int:
        """Delete entries: from now on no search finds them, exact or approximate. Give one of the three.

        Their rows stay in the files until :func:`compact` writes the store anew without them. The deletion is on the
        disk when this returns; a store that another process has open follows at its ``refresh``.

        Args:
            entries: their numbers.
            document: the number of a document: all of its entries.
            label: all entries that have it.

        Returns:
            How many of them were there until now.

        Raises:
            InputError: (a ``ValueError``) there is no such entry or document, or none or several of the three is given.
        """
        if sum(given is not None for given in (entries, document, label)) != 1:
            raise InputError("delete takes one of entries=, document= and label=.")
        self.refresh()
        dead_N = self.deleted()
        before = int(dead_N.sum())
        if entries is not None:
            dead_N[self._numbers(entries)] = True
        elif document is not None:
            for span in self.spans(document):
                dead_N[span] = True
        else:
            dead_N |= self.labels == label
        write_column(self.path, self.contents.tombstones, np.packbits(dead_N, bitorder="little"), _BITS_BLOCK)
        self.refresh()
        return int(dead_N.sum()) - before

    def refresh(self) -> None:
        """Read anew which entries were deleted."""
        contents = self.contents
        deleted = open_column(self.path, contents.tombstones, contents.tombstone_bytes, None, check=True)
        self._deleted = np.array(deleted)
        self._live = self.count - int(np.bitwise_count(self._deleted).sum())

    def deleted(self) -> Array:
        """Which entries were deleted, bool [N]."""
        return np.unpackbits(self._deleted, count=self.count, bitorder="little").astype(bool)

    def spans(self, document: int) -> list[slice]:
        """The entries of a document, by its number; InputError if there is none."""
        first_M, number_M = self.documents[:, 0], self.documents[:, 1]
        ends_M = np.append(first_M[1:], self.count)
        found = [slice(int(first_M[m]), int(ends_M[m])) for m in np.flatnonzero(number_M == document)]
        if not found:
            raise InputError(
                f"document is {document}; {self.path} has {len(number_M):,} documents, "
                f"numbered {number_M.min() if len(number_M) else 0} to {number_M.max() if len(number_M) else 0}."
            )
        return found

    def build_index(
        self,
        kind: Kind = "ivf",
        *,
        lists: int | None = None,
        probes: int = 32,
        k: int = 1024,
        query: Tensor | None = None,
    ) -> Index:
        """Make an approximate index of the keys with faiss, keep it in the folder, and measure its recall.

        A deleted entry stays in it and is filtered at each search. The index is made in memory: "ivf" takes the bytes
        of the keys in float16 there, "ivfpq" a byte for every four features, "hnsw" the former and 256 bytes an entry.
        When it is opened, an "ivf" or "ivfpq" is read through a memory map.

        Args:
            kind: "ivf", lists of keys by the nearest of so many centres; "ivfpq", the same of keys in a few bytes; or
                "hnsw", a graph, the slowest to build.
            lists: how many; by default the square root of N to a power of two.
            probes: how many of them a query looks into.
            k: neighbours for which recall is measured.
            query: [Q, D] on which it is; by default 256 of the keys, each without itself.

        Returns:
            The index, with its recall; also ``self.index``.

        Raises:
            InputError: (a ``ValueError``) faiss is not installed, or an argument is not as above.
        """
        self.index = build_index(self, kind, lists, probes, k, query)
        return self.index

    def _index(self) -> Index:
        if self.index is None:
            raise InputError(f"{self.path} has no index. Call build_index() first, or search exactly.")
        return self.index

    def _dead(self, part: slice) -> Tensor | None:
        first = part.start // 8
        bits = self._deleted[first : -(-part.stop // 8)]
        if not bits.any():
            return None
        dead_T = np.unpackbits(bits, bitorder="little")[part.start - 8 * first :][: part.stop - part.start]
        return torch.from_numpy(dead_T.astype(bool))

    def _numbers(self, entries: Iterable[int]) -> Array:
        numbers = np.asarray(entries if isinstance(entries, np.ndarray | Tensor) else list(entries))
        if numbers.dtype.kind not in "iu" and numbers.size:
            raise InputError(f"entries are {numbers.dtype}; expected whole numbers.")
        numbers = numbers.astype(np.int64).reshape(-1)
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.count:
            raise InputError(
                f"entries run from {numbers.min():,} to {numbers.max():,}, and {self.path} has 0 to {self.count - 1:,}."
            )
        return numbers
