"""The nearest keys of each query: exact, in tiles of keys, whatever their number.

Products in float32 find K and some more candidates, whose distances are then computed one by one in float64, since
|a|^2 + |b|^2 - 2 a.b loses what distinguishes near keys. Where the products' rounding could have hidden a neighbour,
or keys at the same distance, that query looks once more, at whatever is not surely farther than its K-th.

Finding the largest of millions of scores must cost less than their products: of ``_GROUP`` scores only the largest is
held against the query's X-th best so far, and few groups pass once some tiles have been seen.

Shape suffixes: Q queries of a batch, T keys of a tile, G groups of a tile, X candidates, K neighbours, D features,
P candidates of all queries.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from firstsight.functional.tiling.tiles import kind, slices, start_of
from firstsight.memory.datastore.keys import Keys
from firstsight.memory.neighbours import product_eps

_MARGIN = 64  # candidates beyond the K nearest
_QUERIES = {"cpu": 512, "cuda": 4096}  # of a batch: they share the conversion of a tile of keys
_TILE = {"cpu": 4096, "cuda": 2**16}  # keys of a tile, at least
_SCORES = {"cpu": 2**21, "cuda": 2**28}  # where queries are few, a tile grows until it has so many scores ...
_MOST = 4  # ... or so many times its keys
_GROUP = 16
_GATHERED = {"cpu": 2**20, "cuda": 2**26}  # values of keys gathered at once, and candidates kept before they are merged


@dataclass(frozen=True)
class Seen:
    """Which entries the queries may find.

    Args:
        dead: which of a range of entries were deleted, bool [T], or None for none of them.
        first: the first that any query sees.
        stop: [Q] each query sees those before; None: all.
        exclude: [Q] an entry that each query does not see, or -1; None: none.
    """

    dead: Callable[[slice], Tensor | None] = lambda part: None
    first: int = 0
    stop: Tensor | None = None
    exclude: Tensor | None = None

    def of(self, q: slice | Tensor) -> "Seen":
        """The same for some of the queries."""
        stop_Q, exclude_Q = (None if of_Q is None else of_Q[q] for of_Q in (self.stop, self.exclude))
        return Seen(self.dead, self.first, stop_Q, exclude_Q)

    def hide(self, score_QT: Tensor, first: int) -> None:
        """Set the scores of the entries from ``first`` on to -inf where a query does not see them."""
        last = first + score_QT.shape[1]
        if self.stop is not None and int(self.stop.min()) < last:
            entry_T = torch.arange(first, last, device=score_QT.device)
            score_QT.masked_fill_(entry_T >= self.stop[:, None], -math.inf)
        if self.exclude is not None:
            place_Q = self.exclude - first
            row = ((place_Q >= 0) & (place_Q < score_QT.shape[1])).nonzero()[:, 0]
            score_QT[row, place_Q[row]] = -math.inf


def nearest(keys: Keys, query_QD: Tensor, k: int, seen: Seen) -> tuple[Tensor, Tensor]:
    """The K = min(k, entries) nearest keys of each query by Euclidean distance, nearest first, the later of equals.

    Exact of the keys as they are stored, whatever the sizes of tiles. ``dead`` of ``seen`` is for all batches.

    Returns:
        Squared distances [Q, K] float32, and the entries [Q, K] int64: infinite, and -1, where fewer are seen.
    """
    K = min(k, keys.count)
    squared_QK = query_QD.new_empty(len(query_QD), K, dtype=torch.float32)
    index_QK = torch.empty_like(squared_QK, dtype=torch.int64)
    for q in slices(len(query_QD) if K else 0, _QUERIES[kind(query_QD)]):
        squared_QK[q], index_QK[q] = _batch(keys, query_QD[q], K, seen.of(q))
    return squared_QK, index_QK


def _batch(keys: Keys, query_QD: Tensor, K: int, seen: Seen) -> tuple[Tensor, Tensor]:
    best = _Best(query_QD, min(K + _MARGIN, keys.count))
    for score_QT, first in _scores(keys, query_QD, seen):
        best.take(score_QT, first)
    score_QX, index_QX = best.found()
    squared_QK, index_QK = closest(keys, query_QD, index_QX, K)
    bound_Q, square_Q = _surely_farther(query_QD, squared_QK[:, -1])
    # Where a candidate is missing, all that the query sees are among them.
    last_Q = score_QX.amin(1).double()
    unsure_Q = (last_Q > -math.inf) & (square_Q - 2 * last_Q <= bound_Q)
    row = unsure_Q.nonzero()[:, 0]
    if len(row):
        enough_Q = (square_Q - bound_Q)[row] / 2
        squared_QK[row], index_QK[row] = _all_within(keys, query_QD[row], K, seen.of(row), enough_Q)
    return squared_QK.float(), index_QK


def closest(keys: Keys, query_QD: Tensor, index_QX: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The K nearest of each query's candidates, -1 for none: squared distances, float64, and entries [Q, K]."""
    latest_QX = index_QX.sort(1, descending=True).values
    squared_QK = query_QD.new_empty(len(query_QD), K, dtype=torch.float64)
    index_QK = torch.empty_like(squared_QK, dtype=torch.int64)
    for q in slices(len(query_QD), max(1, _GATHERED[kind(query_QD)] // (latest_QX.shape[1] * keys.dim))):
        index_RX = latest_QX[q]
        near_RXD = keys.at(index_RX.reshape(-1).clamp(min=0).cpu()).view(*index_RX.shape, -1).to(query_QD.device)
        squared_RX = near_RXD.sub_(query_QD[q, None]).square_().sum(2)
        squared_RX.masked_fill_(index_RX < 0, math.inf)
        order = squared_RX.sort(dim=1, stable=True)
        squared_QK[q], index_QK[q] = order.values[:, :K], index_RX.gather(1, order.indices[:, :K])
    return squared_QK, index_QK


def _surely_farther(query_QD: Tensor, squared_Q: Tensor) -> tuple[Tensor, Tensor]:
    """What a distance by products is above for any key farther than this, and |q|^2; [Q] float64.

    A key within that distance is at most the query's length and the distance long, which bounds the rounding.
    """
    square_Q = query_QD.double().square().sum(1)
    longest_Q = (square_Q.sqrt() + squared_Q.sqrt()).square()
    rounding_Q = 2 * product_eps(torch.float32) * (query_QD.shape[1] + 4) * (square_Q + 2 * longest_Q)
    return squared_Q + rounding_Q, square_Q


def _scores(keys: Keys, query_QD: Tensor, seen: Seen) -> Iterator[tuple[Tensor, int]]:
    """q.k - |k|^2 / 2 of all queries and a tile of keys [Q, T], and the tile's first entry; the last tile first.

    T is a multiple of ``_GROUP``; there are scores of -inf behind those of the last keys.
    """
    (Q, D), device = query_QD.shape, query_QD.device
    start, stop = seen.first, keys.count if seen.stop is None else min(keys.count, int(seen.stop.max()))
    size = _TILE[kind(query_QD)]
    size = max(size, min(_MOST * size, _SCORES[kind(query_QD)] // max(Q, 1)) // _GROUP * _GROUP)
    size = min(size, -(-max(stop - start, 1) // _GROUP) * _GROUP)
    one_QE = torch.cat([query_QD.float(), query_QD.new_ones(Q, 1, dtype=torch.float32)], 1)
    key_TE = torch.empty(size, D + 1, device=device)
    memory = torch.empty(Q * size, device=device)
    for part in reversed(list(slices(stop - start, size))):
        part = slice(part.start + start, part.stop + start)
        T = part.stop - part.start
        tile_TE = key_TE[:T]
        keys.into(tile_TE[:, :D], part)
        torch.linalg.vector_norm(tile_TE[:, :D], dim=1, out=tile_TE[:, D])
        tile_TE[:, D].square_().mul_(-0.5)
        if (dead_T := seen.dead(part)) is not None:
            tile_TE[:, D].masked_fill_(dead_T.to(device), -math.inf)
        score_QT = start_of(memory, Q, -(-T // _GROUP) * _GROUP)
        torch.mm(one_QE, tile_TE.t(), out=score_QT[:, :T])
        score_QT[:, T:] = -math.inf
        seen.hide(score_QT, part.start)
        yield score_QT, part.start


def _above(score_QT: Tensor, least_Q1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, place in the tile and score [P] of all scores above a query's least."""
    score_QJG = score_QT.view(len(score_QT), _GROUP, -1)
    passes_QG = score_QJG.amax(1) > least_Q1
    if 4 * int(passes_QG.sum()) > passes_QG.numel():  # while few have been seen; then groups save nothing
        query_P, place_P = (score_QT > least_Q1).nonzero(as_tuple=True)
        return query_P, place_P, score_QT[query_P, place_P]
    query_P, group_P = passes_QG.nonzero(as_tuple=True)
    score_PJ = score_QJG[query_P, :, group_P]
    p, j = (score_PJ > least_Q1[query_P]).nonzero(as_tuple=True)
    return query_P[p], j * score_QJG.shape[2] + group_P[p], score_PJ[p, j]


class _Best:
    """The X largest scores of each query so far, and candidates that are to be merged with them."""

    def __init__(self, query_QD: Tensor, X: int) -> None:
        self._score_QX = query_QD.new_full((len(query_QD), X), -math.inf, dtype=torch.float32)
        self._index_QX = torch.full_like(self._score_QX, -1, dtype=torch.int64)
        self._least_Q1 = self._score_QX.amin(1, keepdim=True)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._count = 0

    def take(self, score_QT: Tensor, first: int) -> None:
        """Take in the scores of the entries from ``first`` on."""
        Q, X = self._score_QX.shape
        query_P, place_P, score_P = _above(score_QT, self._least_Q1)
        if 2 * len(query_P) > score_QT.numel():
            top = score_QT.topk(min(X, score_QT.shape[1]), 1)
            self._merge(slice(None), top.values, top.indices + first)
            return
        self._waiting.append((query_P, place_P + first, score_P))
        self._count += len(query_P)
        if 2 * self._count > Q * X:
            self._merge_waiting()

    def found(self) -> tuple[Tensor, Tensor]:
        """Scores and entries [Q, X], in no order; -inf and -1 where there is none."""
        self._merge_waiting()
        return self._score_QX, self._index_QX.masked_fill_(self._score_QX == -math.inf, -1)

    def _merge_waiting(self) -> None:
        if not self._count:
            return
        query_P, index_P, score_P = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        (Q, X), order_P = self._score_QX.shape, query_P.argsort()
        count_Q = torch.bincount(query_P, minlength=Q)
        first_Q, widest = count_Q.cumsum(0) - count_Q, int(count_Q.max())
        for q in slices(Q, max(1, _GATHERED[kind(score_P)] // (X + widest))):
            of_P = order_P[int(first_Q[q.start]) : int(first_Q[q.stop - 1] + count_Q[q.stop - 1])]
            row_P = query_P[of_P] - q.start
            place_P = torch.arange(len(of_P), device=of_P.device) + first_Q[q.start] - first_Q[query_P[of_P]]
            score_RW = score_P.new_full((q.stop - q.start, int(count_Q[q].max())), -math.inf)
            index_RW = torch.full_like(score_RW, -1, dtype=torch.int64)
            score_RW[row_P, place_P], index_RW[row_P, place_P] = score_P[of_P], index_P[of_P]
            self._merge(q, score_RW, index_RW)

    def _merge(self, q: slice, score_RW: Tensor, index_RW: Tensor) -> None:
        score_RW = torch.cat([self._score_QX[q], score_RW], 1)
        index_RW = torch.cat([self._index_QX[q], index_RW], 1)
        top = score_RW.topk(self._score_QX.shape[1], 1, sorted=False)
        self._score_QX[q], self._index_QX[q] = top.values, index_RW.gather(1, top.indices)
        self._least_Q1[q] = top.values.amin(1, keepdim=True)


def _all_within(keys: Keys, query_QD: Tensor, K: int, seen: Seen, enough_Q: Tensor) -> tuple[Tensor, Tensor]:
    """The K nearest of all entries whose score reaches ``enough``, K at least of each query; as ``closest``."""
    least_Q1 = torch.nextafter(enough_Q.float(), enough_Q.new_full((), -math.inf).float())[:, None]
    parts = [(query_QD.new_empty(0, dtype=torch.int64),) * 2 + (query_QD.new_empty(0, dtype=torch.float64),)]
    waiting = 0
    for score_QT, first in _scores(keys, query_QD, seen):
        query_P, place_P, _ = _above(score_QT, least_Q1)
        for p in slices(len(query_P), max(1, _GATHERED[kind(query_QD)] // keys.dim)):
            index_P = place_P[p] + first
            near_PD = keys.at(index_P.cpu()).to(query_QD.device)
            squared_P = near_PD.sub_(query_QD[query_P[p]]).square_().sum(1)
            parts.append((query_P[p], index_P, squared_P))
            waiting += len(index_P)
            if waiting > _GATHERED[kind(query_QD)]:
                parts, waiting = [_first_of_each(parts, K)], 0
    _, index_P, squared_P = _first_of_each(parts, K)
    return squared_P.view(-1, K), index_P.view(-1, K)


def _first_of_each(parts: list[tuple[Tensor, Tensor, Tensor]], K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, entries and squared distances [P]: the K nearest of each query, by query, then as they come first."""
    query_P, index_P, squared_P = (torch.cat(of) for of in zip(*parts, strict=True))
    order_P = index_P.argsort(descending=True)
    order_P = order_P[squared_P[order_P].argsort(stable=True)]
    order_P = order_P[query_P[order_P].argsort(stable=True)]
    count_Q = torch.bincount(query_P)
    first_Q = count_Q.cumsum(0) - count_Q
    rank_P = torch.arange(len(order_P), device=order_P.device) - first_Q[query_P[order_P]]
    kept_P = order_P[rank_P < K]
    return query_P[kept_P], index_P[kept_P], squared_P[kept_P]
