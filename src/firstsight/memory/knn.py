"""kNN-LM: what followed the nearest activations of another text, most often the one that a model was trained on.

Shape suffixes: N tokens of a call, Q those searched at once, K neighbours, D features, S settings of k, T temperatures.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.functional.tiling.tiles import slices
from firstsight.memory.datastore import Datastore
from firstsight.memory.recalled import Recalled, Window, votes
from firstsight.memory.store import CHUNK, check_pairs
from firstsight.memory.vote import Voting


class KNNGrid(Voting):
    """kNN-LM of several k and temperatures over the same store, from one search.

    Arguments, attributes and errors as :class:`KNN`, with ``ks`` and ``temperatures`` in place of one each.
    """

    stored = True

    def __init__(
        self,
        datastore: Datastore,
        ks: Sequence[int],
        temperatures: Sequence[float],
        *,
        leave_out: bool = False,
        approximate: bool = False,
    ) -> None:
        super().__init__(ks, temperatures)
        if not len(datastore):
            raise InputError(f"{datastore.path} has no entries that count. Give a store that has some.")
        if leave_out and datastore.contents.origin != "pairs":
            raise InputError(
                f"leave_out is for a store whose entries are those of the text, in its order; {datastore.path} was "
                f"{datastore.contents.origin.split()[0]}, which numbers them anew. Give the store that the text was "
                "written into."
            )
        if approximate and datastore.index is None:
            raise InputError(f"{datastore.path} has no index. Call build_index() first, or search exactly.")
        self.size = math.inf if leave_out else 0  # type: ignore[assignment]  # of the stream nothing is remembered
        self.datastore, self.leave_out, self.approximate, self.position = datastore, leave_out, approximate, 0

    def __len__(self) -> int:
        """Entries of the store that count."""
        return len(self.datastore)

    def new_document(self) -> None:
        """Nothing: the store is of another text, or of all documents of this one."""

    def reset(self) -> None:
        """Begin the text anew: with ``leave_out`` the next pair is entry 0."""
        self.position = 0

    def seek(self, position: int) -> None:
        """The next pair is that of this position of the text: what counts with ``leave_out``."""
        self.position = position

    def empty(self, hidden: Tensor) -> Tensor:
        """Never: the store has entries before the first token is read."""
        return torch.zeros(hidden.shape[:-2], dtype=torch.bool, device=hidden.device)

    def check(self, hidden: Tensor, target: Tensor, num_classes: int | None = None) -> None:
        """Raise InputError unless these are pairs of the store's width."""
        check_pairs(hidden, target, num_classes)
        if hidden.shape[-1] != self.datastore.dim:
            raise InputError(
                f"hidden is {hidden.shape[-1]} wide, but the keys of {self.datastore.path} are {self.datastore.dim}: "
                "they are of another model. Give the store of this one."
            )

    def recalled(self, query_QD: Tensor, window: Window, top: int) -> Recalled:
        """As :meth:`Memory.recalled`, of the first k and temperature: places are entries of the store.

        With ``leave_out`` the first query is the pair ``position`` of the text, and they move on from there.
        """
        own_Q = self.position + torch.arange(len(query_QD), device=query_QD.device) if self.leave_out else None
        self.position += len(query_QD)
        found = self.datastore.search(query_QD, self.ks[0], exclude=own_Q, approximate=self.approximate)
        squared_QK, entry_QK = found[0].double(), found[1]
        label_QK = torch.from_numpy(self.datastore.labels[entry_QK.cpu().numpy()].astype(np.int64)).to(query_QD.device)
        share_QK = (squared_QK / -self.temperatures[0]).softmax(1).nan_to_num(0.0)
        class_QG, vote_QG = votes(label_QK, share_QK, top)
        shown = slice(None), slice(top)
        distance_QK = squared_QK.sqrt()
        return Recalled(entry_QK[shown], label_QK[shown], share_QK[shown], distance_QK[shown], class_QG, vote_QG)

    def affinity(self, query_QD: Tensor, keys_WD: Tensor) -> None:
        """None: its pairs are not those of a window."""

    def read(self, head: Any, hidden: Tensor, target: Tensor, *, score: bool = True) -> Tensor:
        """As :meth:`Memory.read`; nothing is remembered, and the output layer is of no account."""
        self.check(hidden, target)
        found, kept = self._found(hidden, target, score), target != IGNORE_INDEX
        with torch.inference_mode(False), torch.no_grad():
            hidden_ND, target_N, first = hidden[kept], target[kept], self.position
            if score and len(target_N):
                parts = [self._score(hidden_ND[p], target_N[p], first + p.start) for p in slices(len(target_N), CHUNK)]
                found[..., kept] = torch.cat(parts, -1).to(found.dtype)
        self.position += len(target_N)
        return self._shown(found, score)

    def _score(self, hidden_QD: Tensor, target_Q: Tensor, first: int) -> Tensor:
        own_Q = None
        if self.leave_out:
            if first + len(target_Q) > self.datastore.count:
                raise InputError(
                    f"leave_out is for the text that was stored, {self.datastore.count:,} pairs, and this is one of "
                    f"{first + len(target_Q):,} at least since reset(). Read that text, or leave it off."
                )
            own_Q = torch.arange(first, first + len(target_Q), device=target_Q.device)
        squared_QK, index_QK = self.datastore.search(
            hidden_QD, max(self.ks), exclude=own_Q, approximate=self.approximate
        )
        return self._votes(squared_QK, index_QK, self.datastore.labels, target_Q)


class KNN(KNNGrid):
    r"""kNN-LM (Khandelwal et al. 2020): the labels of the k nearest entries of a store, each by its distance.

    .. math:: p_\mathrm{knn}(y \mid h) \propto \sum_{j \in N_k(h)} 1\{y_j = y\} \exp(-|h - h_j|^2 / T)

    with N_k(h) the k entries nearest to h, exact (of the stored, rounded keys) or an index's. It does not depend on
    what was read before. Cost: see :meth:`Datastore.search`. Source: Khandelwal et al. (2020), whose k = 1,024 and
    T = 1 are the defaults; T is to be tuned, since the lengths of activations differ from model to model.

    Args:
        datastore: an open one.
        k: how many neighbours, 1 or more.
        temperature: T, finite, above 0.
        leave_out: the text that is read is the one that was stored, in the same order: the n-th pair that is read
            since ``reset`` (-100 left out, stream by stream of a call) does not find entry n, itself.
        approximate: ask the store's index, see :meth:`Datastore.build_index`.

    Attributes:
        position: how many pairs were read since ``reset``.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above, the store has no entries that count or no index, or
            ``leave_out`` is asked of one that was compacted or joined.
    """

    _single = True

    def __init__(
        self,
        datastore: Datastore,
        k: int = 1024,
        temperature: float = 1.0,
        *,
        leave_out: bool = False,
        approximate: bool = False,
    ) -> None:
        super().__init__(datastore, [k], [temperature], leave_out=leave_out, approximate=approximate)
