"""Which runs of n words of one text stand in another, exactly, at the speed of numpy.

A shingle is n consecutive words of one document; ``<eos>`` is no word, so a passage whose sentences were split in
another way is still the same passage. Shingles are compared by a polynomial hash of their ids and every match is then
checked id by id, so what is found is never a collision.

Legend: W words of the indexed text, M its documents, P its shingles, U different ones; B words of a block of the text
that is searched, T that text's documents.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7, 0xC2B2AE3D27D4EB4F)  # odd
_LEAST_DISTINCT = 4


class ShingleIndex:
    """The shingles of a text that fits into memory, to be looked up.

    Two kinds of shingles are left out, because a match of theirs says nothing: those with ``<unk>``, since two unknown
    words need not be the same word, and those of fewer than min(4, n) different words, such as rows of asterisks and
    the dots of a table of contents.

    Attributes:
        words_W: the words' ids, uint32, ``<eos>`` left out.
        starts_M: int64 [M + 1], where the documents begin in them.
        position_P: where each shingle begins in them, rising.
        document_P: the document that it stands in.
        which_P: the number of each shingle, 0 .. U - 1; equal shingles have one number.
        size: U.
    """

    def __init__(self, words_W: npt.NDArray[np.uint32], starts_M: Ints, n: int, unk_id: int) -> None:
        self.words_W, self.starts_M, self.n = words_W, starts_M, n
        self.position_P = _informative(words_W, starts_M, n, unk_id)
        self.document_P = np.searchsorted(starts_M, self.position_P, side="right") - 1
        # A hash that two different shingles share would hide one of them, so then another hash is taken.
        if not any(self._number(multiplier) for multiplier in _MULTIPLIERS):
            raise RuntimeError("Every hash has a collision, which does not happen by chance.")

    def _number(self, multiplier: int) -> bool:
        """Give equal shingles one number; False where two different ones have the same hash."""
        self._multiplier = np.uint64(multiplier)
        hash_P = self._hashes(self.words_W)[self.position_P]
        order_P = np.argsort(hash_P, kind="stable")
        hash_P = hash_P[order_P]
        new_P = np.ones(len(hash_P), dtype=bool)
        np.not_equal(hash_P[1:], hash_P[:-1], out=new_P[1:])
        again = np.flatnonzero(~new_P)
        position = self.position_P[order_P]
        if not np.all(self._equal(self.words_W, position[again], position[again - 1])):
            return False
        self.size = int(np.count_nonzero(new_P))
        self.which_P = np.empty(len(hash_P), dtype=np.int64)
        self.which_P[order_P] = np.cumsum(new_P) - 1
        self._hash_U, self._first_U = hash_P[new_P], position[new_P]
        # A table of 16 to 32 slots for each shingle (up to 64 MiB) turns most others away before the slow search.
        self._shift = np.uint64(64 - min((self.size * 16 + 1).bit_length(), 26))
        self._slots = np.zeros(1 << (64 - int(self._shift)), dtype=bool)
        self._slots[self._slot(self._hash_U)] = True
        return True

    def _hashes(self, words_B: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """The hash of the n words from each position on, sum over i of w_i m^(n - 1 - i) mod 2^64: [B - n + 1]."""
        wide = words_B.astype(np.uint64)
        size = max(0, len(wide) - self.n + 1)
        hashes = wide[:size].copy()
        for i in range(1, self.n):
            hashes *= self._multiplier
            hashes += wide[i : i + size]
        return hashes

    def _slot(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        # The upper bits of the hash itself hardly depend on the last word.
        return (hashes * np.uint64(_MULTIPLIERS[0])) >> self._shift

    def _equal(self, words_B: npt.NDArray[np.uint32], at: Ints, first: Ints) -> npt.NDArray[np.bool_]:
        """Whether the n words of ``words_B`` from ``at`` on are the indexed ones from ``first`` on."""
        equal = np.ones(len(at), dtype=bool)
        for i in range(self.n):
            equal &= words_B[at + i] == self.words_W[first + i]
        return equal

    def find(self, words_B: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Where indexed shingles begin in ``words_B``, and their numbers."""
        hashes = self._hashes(words_B)
        at = np.flatnonzero(self._slots[self._slot(hashes)])
        number = np.minimum(np.searchsorted(self._hash_U, hashes[at]), self.size - 1)
        same = self._hash_U[number] == hashes[at]
        at, number = at[same], number[same]
        equal = self._equal(words_B, at, self._first_U[number])
        return at[equal], number[equal]


def _informative(words_W: npt.NDArray[np.uint32], starts_M: Ints, n: int, unk_id: int) -> Ints:
    """The positions whose n words lie in one document, are all known, and differ enough."""
    size = max(0, len(words_W) - n + 1)
    start = np.arange(size)
    before_W = _previous(words_W)
    good = np.ones(size, dtype=bool)
    distinct = np.zeros(size, dtype=np.int32)
    for i in range(n):
        good &= words_W[i : i + size] != unk_id
        distinct += before_W[i : i + size] < start  # its first occurrence in these n words
    good &= distinct >= min(_LEAST_DISTINCT, n)
    end_W = np.repeat(starts_M[1:], np.diff(starts_M))  # of the document that a word belongs to
    good &= end_W[:size] - start >= n
    return np.flatnonzero(good)


def _previous(words_W: npt.NDArray[np.uint32]) -> Ints:
    """Where each word occurred last before, -1 for its first occurrence."""
    order = np.argsort(words_W, kind="stable")
    same = words_W[order[1:]] == words_W[order[:-1]]
    before_W = np.full(len(words_W), -1)
    before_W[order[1:][same]] = order[:-1][same]
    return before_W


def search(
    index: ShingleIndex,
    tokens: npt.NDArray[np.uint32],
    starts_T: Ints,
    *,
    eos_id: int,
    block: int,
    common: int,
    progress: Callable[[int], object] | None,
) -> tuple[Ints, Ints, npt.NDArray[np.int32]]:
    """The documents of a long text that hold each indexed shingle.

    The text is read once, ``block`` tokens at a time, and ``progress`` told how many. Memory holds at most about
    ``common`` documents for each shingle: of one in more documents they are counted, but not listed.

    Args:
        index: the shingles to look for.
        tokens: the text, any length, ``<eos>`` included.
        starts_T: int64 [T + 1], where its documents begin.

    Returns:
        Shingle numbers, rising; for each the document it stands in, every pair once; and [U] the number of documents
        that hold each shingle, those not listed included.
    """
    held_U = np.zeros(index.size, dtype=np.int32)
    last_U = np.full(index.size, -1, dtype=np.int64)
    numbers, documents = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    total = len(starts_T) - 1
    for position_B, words_B, read in _blocks(tokens, eos_id, index.n, block):
        at, number = index.find(words_B)
        document = np.searchsorted(starts_T, position_B[at], side="right") - 1
        inside = position_B[at + index.n - 1] < starts_T[document + 1]
        number, document = np.divmod(np.unique(number[inside] * total + document[inside]), total)
        # Documents come in order, so only the last one of a shingle can have been met in an earlier block.
        fresh = document > last_U[number]
        number, document = number[fresh], document[fresh]
        last_U[number] = document  # they rise: the last assignment is the largest
        np.add.at(held_U, number, 1)
        listed = held_U[number] <= common
        numbers.append(number[listed])
        documents.append(document[listed])
        if progress:
            progress(read)
    number, document = np.concatenate(numbers), np.concatenate(documents)
    listed = held_U[number] <= common
    number, document = number[listed], document[listed]
    order = np.argsort(number, kind="stable")
    return number[order], document[order], held_U


def _blocks(
    tokens: npt.NDArray[np.uint32], eos_id: int, n: int, block: int
) -> Iterator[tuple[Ints, npt.NDArray[np.uint32], int]]:
    """Words and their positions in ``tokens``, the last n - 1 of a block again in the next; and the new tokens read."""
    position_B, words_B = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32)
    for start in range(0, len(tokens), block):
        part = np.asarray(tokens[start : start + block])
        kept = np.flatnonzero(part != eos_id)
        again = max(0, len(words_B) - (n - 1))
        position_B = np.concatenate([position_B[again:], kept + start])
        words_B = np.concatenate([words_B[again:], part[kept]])
        yield position_B, words_B, len(part)
