"""The best of very many classes without looking at all of them: an approximate index of a head's rows, by faiss.

Shapes: N activations, V classes, D features, X candidates of an activation.
"""

import math
import threading
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.return_types import topk

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, class_labels
from firstsight.functional.tiling.tiles import slices
from firstsight.heads import Softmax
from firstsight.heads.steps.whole import uninterrupted
from firstsight.memory.datastore.index import load_faiss, set_threads

_ROWS = 2**15  # that are added at once
_A_LIST = 64  # rows that a list's centre is learnt from
_MORE = 2  # candidates for each of the k: rows in half precision err in their order, logits of candidates do not
_NUMBERS = 2**24  # of candidates' rows that are held at a time: 64 MB
_OUTLIERS = 1000  # one row in so many may stand apart from the start
_FAR = 4  # if the largest square of all others is so many times smaller


class Lock:
    """A lock that a copy has another one of."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["Lock"], tuple[()]]:
        return Lock, ()


class RowIndex:
    r"""An index of the rows of a head for :math:`\theta_v \cdot h + b_v`, sorted into lists of which a query sees few.

    Lists go by nearness, and the largest product is made the nearest neighbour by a coordinate more (Bachrach et al.
    2014): with :math:`x_v = (\theta_v, b_v)`, M the largest :math:`\lVert x_v \rVert^2` and q = (h, 1), at unit length

    .. math:: \Big\lVert \big(x_v, \sqrt{M - \lVert x_v \rVert^2}\big) / \sqrt M - (q, 0) \Big\rVert^2
        = 2 - 2 q \cdot x_v / \sqrt M

    (Lists by the product itself found 68% of what these find all of: LOG.md, 2026-12-01.) Rows that are far longer than
    all others, one in a thousand at most, stand apart and are looked at in every question; so are those that were
    written since and are longer than all were. Many of them make it slow: build it anew.

    The candidates' logits are computed exactly, from the head's own rows: what :meth:`topk` gives is right, and what it
    misses is said by ``recall``. Extra ``faiss``. On the CPU, of rows as they were when they were added: a head that is
    trained on needs a new index, one that is written now and then :meth:`update`. Threads may ask and update at once,
    one after the other; whoever writes into the head sees to it that nobody asks meanwhile.

    Args:
        head: a ``Softmax`` of any kind, of one matrix.
        hidden: [N, D] activations such as will be asked for, on which recall is measured. There is no default: on
            anything else, as the rows themselves, it would be a number that flatters.
        k: the k of the recall.
        lists: into how many lists the rows are sorted; None: about :math:`\sqrt V`.
        probes: how many of them a query looks into: more is slower and finds more.

    Attributes:
        recall: the share of the k best classes of ``hidden`` that it finds, measured as it was built.

    Raises:
        InputError: (a ``ValueError``) faiss is missing, a size is below 1, or hidden is not as above; or a row or an
            activation is not finite.
    """

    def __init__(
        self, head: Softmax, hidden: Tensor, *, k: int = 10, lists: int | None = None, probes: int = 8
    ) -> None:
        if not isinstance(head, Softmax):
            raise InputError(f"head is a {type(head).__name__}; expected a Softmax or one of its kinds.")
        V, D = head.weight.shape
        if head.num_classes != V:
            raise InputError(f"the head has {V} of {head.num_classes} classes here; expected one that has all.")
        lists = min(V, 2 ** round(math.log2(V) / 2)) if lists is None else lists
        whole = isinstance(lists, Integral) and isinstance(probes, Integral)
        if not (whole and 1 <= lists <= V and probes >= 1):
            raise InputError(f"lists is {lists} and probes {probes}; expected 1 to {V} lists, and 1 or more probes.")
        if hidden.ndim != 2 or hidden.shape[1] != D or not len(hidden):
            raise InputError(f"hidden is {list(hidden.shape)}; expected [N, {D}], one activation or more.")
        self.head, self.probes, self.lists = head, probes, int(lists)
        self._lock, self._removals = Lock(), head.removals
        faiss = load_faiss()
        set_threads()
        squares_V = torch.cat([_squares(self._rows(torch.arange(V)[part])) for part in slices(V, _ROWS)])
        if not bool(squares_V.isfinite().all()):
            raise InputError("the head has rows that are not finite; expected finite ones.")
        self._M = _largest_of_most(squares_V)
        self._seen, self._apart = 0, torch.empty(0, dtype=torch.int64)  # classes so far; those with longer rows
        width = D + (head.bias is not None) + 1
        self._index: Any = faiss.index_factory(width, f"IVF{self.lists},SQfp16", faiss.METRIC_L2)
        faiss.extract_index_ivf(self._index).cp.min_points_per_centroid = 1  # fewer are no fault, and no warning
        size = min(V, max(_A_LIST * self.lists, 2**14))
        sample = torch.from_numpy(np.sort(np.random.default_rng(0).choice(V, size, replace=False)))
        self._index.train(self._points(self._rows(sample)))
        self._add(torch.arange(V))
        self.recall = self.recall_of(hidden, k)

    def topk(self, hidden: Tensor, k: int) -> topk:
        """The k best classes that are found: as :meth:`Softmax.topk`; where fewer are, the rest is -inf and -1.

        Args:
            hidden: [..., D] float, finite.
            k: from 1 to V.

        Raises:
            InputError: (a ``ValueError``) hidden or k is not as above, or classes were added or removed since.
        """
        V, D = self.head.weight.shape
        if not (isinstance(k, Integral) and 1 <= k <= V) or hidden.shape[-1:] != (D,):
            raise InputError(f"k is {k}, hidden {list(hidden.shape)}; expected 1 to {V}, and [..., {D}].")
        h_ND, k = hidden.detach().reshape(-1, D), int(k)
        if not bool(h_ND.isfinite().all()):
            raise InputError("hidden has numbers that are not finite; expected finite ones.")
        candidates = min(_MORE * k, V)
        with self._lock:
            self._check_nothing_removed()
            self._check_all_there()
            set_threads()
            tile = max(1, _NUMBERS // (candidates * D + len(self._apart)))
            parts = [self._best(h_ND[part], k, candidates) for part in slices(max(1, len(h_ND)), tile)]
        values, classes = (torch.cat(each).view(*hidden.shape[:-1], k) for each in zip(*parts, strict=True))
        return topk((values, classes))

    def _check_nothing_removed(self) -> None:
        if self.head.removals != self._removals:
            raise InputError("the head has lost classes since the index was built, and others have their numbers now.")

    def _check_all_there(self) -> None:
        V, there = self.head.weight.shape[0], self._index.ntotal + len(self._apart)
        if there != V:
            raise InputError(
                f"the head has {V} classes, and the index {there}: update(classes) adds those that came, or what an "
                "interrupted update left out."
            )

    def _best(self, h_ND: Tensor, k: int, candidates: int) -> tuple[Tensor, Tensor]:
        """The k best logits of some activations, and their classes."""
        weight_VD, bias_V = self.head.weight.detach(), self.head.bias
        q_ND = h_ND.cpu().double() if bias_V is None else F.pad(h_ND.cpu().double(), (0, 1), value=1.0)
        q_ND = F.pad(F.normalize(q_ND, dim=1, eps=1e-300), (0, 1)).float()
        settings = load_faiss().SearchParametersIVF(nprobe=int(self.probes))
        found = self._index.search(q_ND.contiguous().numpy(), candidates, params=settings)[1]
        class_NX = torch.from_numpy(found).to(weight_VD.device)
        apart_A, there_NX = self._apart.to(weight_VD.device), class_NX.clamp(min=0)
        h_ND = h_ND.to(weight_VD)
        with torch.no_grad(), torch.autocast(weight_VD.device.type, enabled=False):
            z_NX = torch.einsum("nd,nxd->nx", h_ND, weight_VD[there_NX])
            z_NA = h_ND @ weight_VD[apart_A].mT
            if bias_V is not None:
                z_NX, z_NA = z_NX + bias_V[there_NX], z_NA + bias_V[apart_A]
        z_NX = torch.cat([z_NX.masked_fill(class_NX < 0, -math.inf), z_NA], 1)
        class_NX = torch.cat([class_NX, apart_A.expand(len(h_ND), -1)], 1)
        best = z_NX.topk(k)
        return best.values, class_NX.gather(1, best.indices)

    def recall_of(self, hidden: Tensor, k: int) -> float:
        """The share of the k best classes of activations [N, D], by all rows, that are found.

        One that ties with the k-th of them, to rounding, is as good as it.
        """
        exact, found = self.head.topk(hidden, k), self.topk(hidden, k)
        rounding_N1 = 1e-5 * exact.values.abs().amax(1, keepdim=True)
        as_good_Nk = found.values >= exact.values[:, -1:] - rounding_N1
        same_Nk = (found.indices[:, :, None] == exact.indices[:, None, :]).any(2)
        return float((same_Nk | as_good_Nk).double().mean())

    def update(self, classes: Classes) -> None:
        """Take these rows as they are now: of classes that came, or were written, which costs a pass over the index.

        Raises:
            InputError: (a ``ValueError``) they are no labels of the head, classes were removed since, or a row is not
                finite; nothing has changed.
        """
        at = class_labels(classes, self.head.num_classes, "classes").cpu()
        with self._lock, uninterrupted():
            self._check_nothing_removed()
            for part in slices(len(at), _ROWS):
                if not bool(self._rows(at[part]).isfinite().all()):
                    raise InputError("of these classes some have rows that are not finite; expected finite ones.")
            set_threads()
            if len(old := at[at < self._seen]):
                self._index.remove_ids(old.numpy())
                self._apart = self._apart[~torch.isin(self._apart, old)]
            self._add(at)

    def _add(self, classes: Tensor) -> None:
        for part in slices(len(classes), _ROWS):
            at = classes[part]
            rows = self._rows(at)
            longer = _squares(rows) > self._M * (1 + 1e-9)  # which sums of another order are not
            self._apart = torch.cat([self._apart, at[longer]])
            self._index.add_with_ids(self._points(rows[~longer]), at[~longer].numpy())
            self._seen = max(self._seen, int(at.max()) + 1)

    def _rows(self, at: Tensor) -> Tensor:
        """x of some classes, bias and all, float64: squares of what float32 holds do not fit in it."""
        weight_VD, bias_V = self.head.weight.detach(), self.head.bias
        rows = weight_VD[at.to(weight_VD.device)].cpu().double()
        if bias_V is None:
            return rows
        return torch.cat([rows, bias_V.detach()[at.to(bias_V.device), None].cpu().double()], 1)

    def _points(self, rows: Tensor) -> np.ndarray:
        """With the coordinate more, of at most unit length, as faiss takes them."""
        unit = rows / math.sqrt(self._M)
        last = (1 - _squares(unit)[:, None]).clamp(min=0).sqrt()
        return np.ascontiguousarray(torch.cat([unit, last], 1).float().numpy())


def _squares(rows: Tensor) -> Tensor:
    return rows.square().sum(1)


def _largest_of_most(squares_V: Tensor) -> float:
    """The largest of them, but of few that are far above all others."""
    few = len(squares_V) // _OUTLIERS
    top = squares_V.topk(few + 1).values
    largest, others = float(top[0]), float(top[-1])
    return max(others if 0 < _FAR * others < largest else largest, 1e-300)
