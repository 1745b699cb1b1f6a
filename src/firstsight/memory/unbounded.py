"""The unbounded cache: all that was read so far, on the disk, and the nearest of it.

Shape suffixes: B streams, N tokens of a call, Q those searched at once, K neighbours, X candidates, D features,
S settings of k, T temperatures.
"""

import math
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.memory.datastore.index import Approximation, learn, load_faiss
from firstsight.memory.datastore.keys import Dtype, check_range
from firstsight.memory.datastore.search import Seen, closest, nearest
from firstsight.memory.datastore.writer import DatastoreWriter
from firstsight.memory.store import CHUNK, check_pairs
from firstsight.memory.vote import Voting

_LEARNT = 2**16  # pairs that an index is first learnt from; until then search is exact
_GROWN = 4  # times as many pairs: it is learnt anew
_PROBES = 32


class UnboundedCacheGrid(Voting):
    """Unbounded caches of several k and temperatures over the same stream, from one search.

    Arguments, attributes and errors as :class:`UnboundedCache`, with ``ks`` and ``temperatures`` in place of one each.
    """

    def __init__(
        self,
        ks: Sequence[int],
        temperatures: Sequence[float],
        *,
        folder: str | Path | None = None,
        approximate: bool = False,
        by_document: bool = False,
        dtype: Dtype = "float16",
    ) -> None:
        super().__init__(ks, temperatures)
        if approximate:
            load_faiss()
        self.size = math.inf  # type: ignore[assignment]  # it reaches back to the first pair
        self.folder, self.approximate, self.by_document, self.dtype = folder, approximate, by_document, dtype
        self._room: weakref.finalize[..., UnboundedCacheGrid] | None = None  # which removes it
        self._streams: list[_Stream] = []

    def __len__(self) -> int:
        """Pairs held: of each stream, or of the longest where ignored tokens make them differ."""
        return max((len(stream.writer) for stream in self._streams), default=0)

    def reset(self) -> None:
        """Forget everything, on the disk too: streams and width may then be others."""
        for stream in self._streams:
            stream.writer.close()
        self._streams = []
        if self._room is not None:
            self._room()

    def new_document(self) -> None:
        """A document begins with the next pair: with ``by_document`` all before it is forgotten."""
        if self.by_document:
            self.reset()

    def empty(self, hidden: Tensor) -> Tensor:
        """Which streams of such a call have no pair yet: bool [B], or [] for a single stream [N, D]."""
        held = [len(stream.writer) > 0 for stream in self._streams]
        held = held or [False] * (len(hidden) if hidden.ndim == 3 else 1)
        found = ~torch.tensor(held, device=hidden.device)
        return found if hidden.ndim == 3 else found[0]

    def check(self, hidden: Tensor, target: Tensor, num_classes: int | None = None) -> None:
        """Raise InputError unless the memory can take these pairs; it stays as it was."""
        check_pairs(hidden, target, num_classes)
        check_range(hidden, self.dtype)
        streams = len(hidden) if hidden.ndim == 3 else 1
        if self._streams and len(self._streams) != streams:
            raise InputError(
                f"hidden has {streams} streams, the memory holds {len(self._streams)}. Go on with as many, or call "
                "reset() first."
            )
        if self._streams and self._streams[0].writer.dim != hidden.shape[-1]:
            raise InputError(
                f"hidden is {hidden.shape[-1]} wide, but the memory holds activations of width "
                f"{self._streams[0].writer.dim}: they are of another model. Give each model a memory of its own, or "
                "call reset() first."
            )

    def remember(self, hidden: Tensor, target: Tensor) -> None:
        """Take in the pairs as :meth:`nll` does, without scoring them."""
        self.read(None, hidden, target, score=False)

    def read(self, head: Any, hidden: Tensor, target: Tensor, *, score: bool = True) -> Tensor:
        """As :meth:`Memory.read`; the output layer is of no account."""
        self.check(hidden, target)
        found = self._found(hidden, target, score)
        h_BND, y_BN = (hidden, target) if hidden.ndim == 3 else (hidden[None], target[None])
        self._open(len(y_BN), hidden.shape[-1])
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            for b, stream in enumerate(self._streams):
                out_N = found if hidden.ndim == 2 else found[..., b, :]
                place_N, at = (y_BN[b] != IGNORE_INDEX).nonzero()[:, 0], 0
                while at < len(place_N):
                    # What an index holds then depends on the token alone, not on where calls end.
                    some_Q = place_N[at : at + CHUNK - len(stream.writer) % CHUNK]
                    nll_STQ = self._score(stream, h_BND[b, some_Q], y_BN[b, some_Q], score)
                    if nll_STQ is not None:
                        out_N[..., some_Q] = nll_STQ.to(found.dtype)
                    at += len(some_Q)
        return self._shown(found, score)

    def _open(self, streams: int, dim: int) -> None:
        if not self._streams:
            room = Path(mkdtemp(prefix="firstsight-", dir=self.folder))
            self._room = weakref.finalize(self, shutil.rmtree, room, ignore_errors=True)
            paths = [room / str(b) for b in range(streams)]
            self._streams = [_Stream(DatastoreWriter(path, dim, about={}, dtype=self.dtype)) for path in paths]

    def _score(self, stream: "_Stream", hidden_QD: Tensor, target_Q: Tensor, score: bool) -> Tensor | None:
        before = len(stream.writer)
        stream.writer.append(hidden_QD, target_Q)
        found = None
        if score:
            stop_Q = torch.arange(before, before + len(target_Q), device=target_Q.device)
            found = self._votes(*stream.search(hidden_QD, max(self.ks), stop_Q), stream.writer.labels(), target_Q)
        if self.approximate and len(stream.writer) % CHUNK == 0:
            stream.follow()
        return found


class UnboundedCache(UnboundedCacheGrid):
    r"""The unbounded cache (Grave et al. 2017): the k nearest of all pairs before a token vote for its label.

    .. math:: p(w \mid h_t) \propto \sum_{j \in N_k(h_t)} 1\{y_j = w\} \exp(-|h_t - h_j|^2 / T)

    with N_k the k nearest of the pairs 1 to t - 1, exact of their stored, rounded keys, within a call too. The pairs
    are on the disk, in a folder of their own that goes with them. Theirs: a kernel density estimate over the k nearest
    of all pairs so far, k = 1,024, with a Gaussian kernel whose bandwidth is the distance to the k-th neighbour, and
    candidates by IVFPQ. Ours: one temperature T for all tokens, as in ``KNN``, so that a sweep covers both memories;
    and search that is exact, unless asked otherwise.

    Cost: 2 n D operations a token with n pairs before it. Memory beyond the mapped files: that of a search, some tens
    of MB; with ``approximate`` the index too, D / 4 + 8 bytes a pair.

    Args:
        k: how many neighbours, 1 or more.
        temperature: T, finite, above 0.
        folder: where to put the files; by default the system's place for temporary ones.
        approximate: from 65,536 pairs on, all but the last 8,192 at most are found by an index (faiss, the extra
            ``faiss``), which is learnt anew at each fourfold number; distances of what it finds are exact.
        by_document: ``new_document`` forgets what was before.
        dtype: of the keys: float16, float32, or int8 with a scale a row.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above, or faiss is not installed.
    """

    _single = True

    def __init__(
        self,
        k: int = 1024,
        temperature: float = 1.0,
        *,
        folder: str | Path | None = None,
        approximate: bool = False,
        by_document: bool = False,
        dtype: Dtype = "float16",
    ) -> None:
        super().__init__(
            [k], [temperature], folder=folder, approximate=approximate, by_document=by_document, dtype=dtype
        )


class _Stream:
    """The pairs of one stream, and an index of most of them."""

    def __init__(self, writer: DatastoreWriter) -> None:
        self.writer = writer
        self._approximation: Approximation | None = None
        self._learnt = 0

    def search(self, query_QD: Tensor, k: int, stop_Q: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances and entries of the k nearest pairs before ``stop``, as ``Datastore.search``."""
        keys = self.writer.keys()
        if self._approximation is None:
            return nearest(keys, query_QD, k, Seen(stop=stop_Q))
        _, late_QK = nearest(keys, query_QD, k, Seen(first=self._approximation.count, stop=stop_Q))
        index_QX = torch.cat([self._approximation.candidates(query_QD, k), late_QK], 1)
        squared_QK, index_QK = closest(keys, query_QD, index_QX, min(k, keys.count))
        return squared_QK, index_QK

    def follow(self) -> None:
        """Have the index hold all pairs."""
        count, keys = len(self.writer), self.writer.keys()
        if count < _LEARNT:
            return
        if self._approximation is None or count >= _GROWN * self._learnt:
            self._approximation = learn(keys, "ivfpq", 2 ** round(math.log2(count) / 2), _PROBES)
            self._learnt = count
        self._approximation.add(keys, count)
