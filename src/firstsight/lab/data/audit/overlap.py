"""From shingles that stand in two texts to pairs of documents that share passages.

Legend: M documents of the indexed text, P its shingle positions, U different shingles, T documents that were
searched, K pairs of a shingle and a document that holds it, R pairs of documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from firstsight.lab.data.audit.shingles import Ints, ShingleIndex


@dataclass(frozen=True)
class Overlap:
    """Pairs of documents that have shingles in common, each pair once.

    Attributes:
        document: int64 [R], the document of the indexed text.
        other: int64 [R], the document of the text that was searched.
        matched: int64 [R], how many of the first one's shingles stand in the other.
        longest: int64 [R], words of the first one's longest passage all of whose shingles stand in the other.
        at: int64 [R], where that passage begins in the indexed words; the first of equal ones.
    """

    document: Ints
    other: Ints
    matched: Ints
    longest: Ints
    at: Ints


def overlaps(index: ShingleIndex, number_K: Ints, other_K: Ints, rows: int) -> Iterator[Overlap]:
    """All pairs, in groups of whole documents of the indexed text.

    ``number_K`` and ``other_K`` are what ``search`` gives: shingle numbers, rising, and the document that holds each.
    About ``rows`` occurrences are in memory, unless one document alone has more.
    """
    first_U = np.searchsorted(number_K, np.arange(index.size + 1))
    shared_P = np.flatnonzero(np.diff(first_U)[index.which_P])
    which_P = index.which_P[shared_P]
    position_P, document_P = index.position_P[shared_P], index.document_P[shared_P]
    size_P = np.diff(first_U)[which_P]
    edge = np.flatnonzero(np.diff(document_P, append=-1)) + 1  # ends of the documents that share anything
    total = np.cumsum(size_P)[edge - 1]
    start = done = 0
    while start < len(shared_P):
        last = max(
            int(np.searchsorted(total, done + rows, side="right")) - 1, int(np.searchsorted(edge, start, "right"))
        )
        part = slice(start, int(edge[last]))
        size = size_P[part]
        nth = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        other = other_K[np.repeat(first_U[which_P[part]], size) + nth]
        yield _pairs(np.repeat(document_P[part], size), other, np.repeat(position_P[part], size), index.n)
        start, done = int(edge[last]), int(total[last])


def _pairs(document: Ints, other: Ints, position: Ints, n: int) -> Overlap:
    """Pairs out of single matches, whose positions rise."""
    order = np.lexsort((other, document))  # stable: positions go on rising within a pair
    document, other, position = document[order], other[order], position[order]
    new_pair = (np.diff(document, prepend=-1) != 0) | (np.diff(other, prepend=-1) != 0)
    run = np.flatnonzero(new_pair | (np.diff(position, prepend=-1) != 1))
    length = np.diff(run, append=len(position))
    pair = np.flatnonzero(new_pair)
    pair_of_run = np.cumsum(new_pair)[run] - 1
    longest = np.maximum.reduceat(length, np.searchsorted(run, pair))
    at_longest = np.flatnonzero(length == longest[pair_of_run])
    first = at_longest[np.unique(pair_of_run[at_longest], return_index=True)[1]]
    matched = np.diff(pair, append=len(position))
    return Overlap(document[pair], other[pair], matched, longest + n - 1, position[run[first]])
