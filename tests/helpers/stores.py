"""Stores to try, and the plain loops that their searches are held against."""

import itertools
import math

import torch

from firstsight.memory import Datastore, DatastoreWriter
from firstsight.memory.datastore import search, writer

ABOUT = {"checkpoint": "a1b2", "corpus": "wikitext-2", "tokens": 12}


def build(folder, hidden, label, *, dtype="float16", starts=(), step=7, about=ABOUT):
    """A store of these pairs, documents beginning at ``starts``, written a few at a time; goes on where it ended."""
    with DatastoreWriter(folder, hidden.shape[1], about=about, dtype=dtype) as made:
        edges = sorted({made.done, len(label), *range(made.done, len(label), step), *starts})
        edges = [edge for edge in edges if made.done <= edge]
        for start, stop in itertools.pairwise(edges):
            if start in starts:
                made.new_document()
            made.append(hidden[start:stop], label[start:stop])
    return Datastore.open(folder, about)


def in_pieces(patch, tile=16, queries=3, margin=1, block_bytes=64):
    """Small tiles, batches and blocks, so that a small store has several."""
    patch.setitem(search._TILE, "cpu", tile)
    patch.setitem(search._SCORES, "cpu", 1)
    patch.setitem(search._QUERIES, "cpu", queries)
    patch.setitem(search._GATHERED, "cpu", 50)
    patch.setattr(search, "_MARGIN", margin)
    patch.setattr(writer, "_BLOCK_BYTES", block_bytes)


def stored(store):
    """The keys as they are stored, [N, D] float64."""
    return store.keys.at(torch.arange(store.count))


def plain_search(keys_ND, query_QD, k, seen=lambda q, j: True):
    """Entries of the k nearest, and their squared distances, one by one in float64; the later of equals first."""
    found = []
    for q, query_D in enumerate(query_QD.double().tolist()):
        squared = {
            j: math.fsum((a - b) ** 2 for a, b in zip(query_D, key_D, strict=True))
            for j, key_D in enumerate(keys_ND.tolist())
            if seen(q, j)
        }
        order = sorted(squared, key=lambda j: (squared[j], -j))[:k]
        found.append((order, [squared[j] for j in order]))
    return found


def assert_found(found, expected):
    """The same entries, in the same order; where two distances differ by rounding alone either may be first."""
    squared_QK, index_QK = found
    for squared_K, index_K, (order, distances) in zip(squared_QK, index_QK, expected, strict=True):
        there = index_K[index_K >= 0].tolist()
        assert len(there) == len(order) == len(set(there))
        assert torch.allclose(squared_K[: len(order)].double(), torch.tensor(distances).double(), rtol=1e-6, atol=1e-12)
        assert squared_K[len(order) :].eq(math.inf).all()
        assert index_K[len(order) :].eq(-1).all()
        distance = dict(zip(order, distances, strict=True))
        for mine, theirs, at in zip(there, order, distances, strict=True):
            assert mine == theirs or abs(distance.get(mine, distances[-1]) - at) <= 1e-12 * at


def plain_nll(neighbours, labels, target, temperature):
    """-log of the share of the label among neighbours (entries, squared distances), in float64."""
    entries, distances = neighbours
    terms = [-d / temperature for d in distances]
    right = [t for t, j in zip(terms, entries, strict=True) if int(labels[j]) == target]
    return _log_sum_exp(terms) - _log_sum_exp(right) if right else math.inf


def _log_sum_exp(terms):
    return max(terms) + math.log(math.fsum(math.exp(t - max(terms)) for t in terms))
