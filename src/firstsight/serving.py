"""The best of very many classes without looking at all of them: an approximate index of a head's rows, by faiss.

Shapes: N activations, V classes, D features, X candidates of an activation.
"""

import math
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
from firstsight.memory.datastore.index import load_faiss, set_threads

_ROWS = 2**15  # that are added at once
_A_LIST = 64  # rows that a list's centre is learnt from
_MORE = 2  # candidates for each of the k: rows in half precision err in their order, logits of candidates do not


class RowIndex:
    r"""An index of the rows of a head for :math:`\theta_v \cdot h + b_v`, sorted into lists of which a query sees few.

    Lists go by nearness, and the largest product is made the nearest neighbour by a coordinate more (Bachrach et al.
    2014): with :math:`x_v = (\theta_v, b_v)` and M the largest :math:`\lVert x_v \rVert^2`,

    .. math:: \Big\lVert \big(x_v, \sqrt{M - \lVert x_v \rVert^2}\big) - (h, 1, 0) \Big\rVert^2
        = M + \lVert h \rVert^2 + 1 - 2 (\theta_v \cdot h + b_v)

    (Lists by the product itself found 68% of what these find all of: LOG.md, 2026-12-01.) A row that was written since
    and is longer than all were has no such coordinate; it is looked at in every question.

    The candidates' logits are computed exactly, from the head's own rows: what :meth:`topk` gives is right, and what it
    misses is said by ``recall``. Extra ``faiss``. On the CPU, of rows as they were when they were added: a head that is
    trained on needs a new index, one that is written now and then :meth:`update`.

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
        InputError: (a ``ValueError``) faiss is missing, a size is below 1, or hidden is not as above.
    """

    def __init__(
        self, head: Softmax, hidden: Tensor, *, k: int = 10, lists: int | None = None, probes: int = 8
    ) -> None:
        V, D = head.weight.shape
        lists = min(V, 2 ** round(math.log2(V) / 2)) if lists is None else lists
        if not (1 <= lists <= V and probes >= 1):
            raise InputError(f"lists is {lists} and probes {probes}; expected 1 to {V} lists, and 1 or more probes.")
        if hidden.ndim != 2 or hidden.shape[1] != D or not len(hidden):
            raise InputError(f"hidden is {list(hidden.shape)}; expected [N, {D}], one activation or more.")
        self.head, self.probes, self.lists = head, probes, lists
        faiss = load_faiss()
        set_threads()
        squares = [self._rows(torch.arange(V)[part]).square().sum(1).max() for part in slices(V, _ROWS)]
        self._M = float(torch.stack(squares).max())
        if not math.isfinite(self._M):
            raise InputError("the head has rows that are not finite; expected finite ones.")
        self._seen, self._apart = 0, torch.empty(0, dtype=torch.int64)  # classes so far; those with longer rows
        width = D + (head.bias is not None) + 1
        self._index: Any = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_L2)
        size = min(V, max(_A_LIST * lists, 2**14))
        sample = np.sort(np.random.default_rng(0).choice(V, size, replace=False))
        self._index.train(self._points(self._rows(torch.from_numpy(sample))))
        self._add(torch.arange(V))
        self.recall = self.recall_of(hidden, k)

    def topk(self, hidden: Tensor, k: int) -> topk:
        """The k best classes that are found: as :meth:`Softmax.topk`; where fewer are, the rest is -inf and -1.

        Args:
            hidden: [..., D] float.
            k: from 1 to V.

        Raises:
            InputError: (a ``ValueError``) hidden or k is not as above, or classes were added or removed since.
        """
        V, D = self.head.weight.shape
        if (there := self._index.ntotal + len(self._apart)) != V:
            raise InputError(
                f"the head has {V} classes, and the index {there}: update(classes) adds those that came, "
                "and after remove_classes the index is to be built anew."
            )
        if not 1 <= k <= V or hidden.shape[-1:] != (D,):
            raise InputError(f"k is {k}, hidden {list(hidden.shape)}; expected 1 to {V}, and [..., {D}].")
        set_threads()
        faiss, h_ND = load_faiss(), hidden.detach().reshape(-1, D)
        asked = F.pad(h_ND.float(), (0, self._index.d - D - 1), value=1.0)
        settings = faiss.SearchParametersIVF(nprobe=self.probes)
        found = self._index.search(F.pad(asked, (0, 1)).cpu().numpy(), min(_MORE * k, V), params=settings)[1]
        class_NX = torch.cat([torch.from_numpy(found), self._apart.expand(len(h_ND), -1)], 1)
        class_NX = class_NX.to(self.head.weight.device)
        with torch.no_grad():
            there_NX = class_NX.clamp(min=0)
            z_NX = torch.einsum("nd,nxd->nx", h_ND.to(self.head.weight), self.head.weight[there_NX])
            if self.head.bias is not None:
                z_NX = z_NX + self.head.bias[there_NX]
        best = z_NX.masked_fill(class_NX < 0, -math.inf).topk(k)
        shape = (*hidden.shape[:-1], k)
        return topk((best.values.view(shape), class_NX.gather(1, best.indices).view(shape)))

    def recall_of(self, hidden: Tensor, k: int) -> float:
        """The share of the k best classes of activations [N, D], by all rows, that are found."""
        exact_Nk, found_Nk = (way.topk(hidden, k).indices for way in (self.head, self))
        return float((exact_Nk[:, :, None] == found_Nk[:, None, :]).any(2).double().mean())

    def update(self, classes: Classes) -> None:
        """Take these rows as they are now: of classes that came, or were written, which costs a pass over the index.

        Raises:
            InputError: (a ``ValueError``) they are no labels of the head.
        """
        at = class_labels(classes, self.head.num_classes, "classes").cpu()
        set_threads()
        if len(old := at[at < self._seen]):
            self._index.remove_ids(old.numpy())
            self._apart = self._apart[~torch.isin(self._apart, old)]
        self._add(at)

    def _add(self, classes: Tensor) -> None:
        for part in slices(len(classes), _ROWS):
            at = classes[part]
            rows = self._rows(at)
            longer = rows.square().sum(1).cpu() > self._M * (1 + 1e-5)  # which sums of another order are not
            self._apart = torch.cat([self._apart, at[longer]])
            self._index.add_with_ids(self._points(rows[~longer]), at[~longer].numpy())
            self._seen = max(self._seen, int(at.max()) + 1)

    def _rows(self, at: Tensor) -> Tensor:
        """x of some classes, bias and all."""
        at = at.to(self.head.weight.device)
        rows = self.head.weight.detach()[at].float()
        return rows if self.head.bias is None else torch.cat([rows, self.head.bias.detach()[at, None].float()], 1)

    def _points(self, rows: Tensor) -> np.ndarray:
        """With the coordinate more, as faiss takes them."""
        last = (self._M - rows.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
        return np.ascontiguousarray(torch.cat([rows, last], 1).cpu().numpy())
