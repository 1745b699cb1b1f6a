"""The adaptive softmax: clusters of classes by frequency, each a softmax in a space of its own, wide or narrow.

Shapes: V classes, D features, K tails, D_k features of a tail, N tokens; [...] stands for any leading dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._compile import _disable_dynamo

from firstsight.errors import InputError, warn
from firstsight.functional.adaptive import first_labels, weighted_mean
from firstsight.functional.checks import IGNORE_INDEX, as_labels, check_class_weight, check_range, check_shapes
from firstsight.functional.tiling.largest import largest_logits
from firstsight.functional.tiling.tiled import log_sum_exp
from firstsight.heads.clusters import Clusters, Tail
from firstsight.heads.hebbian import HebbianSoftmax
from firstsight.heads.kept.looking import looking
from firstsight.heads.softmax import Softmax
from firstsight.heads.steps.exchange import Group
from firstsight.heads.write import NOTHING_WRITTEN


class AdaptiveSoftmax(Clusters):
    r"""A softmax in two steps, for very many classes: first the cluster of a rare class, then the class (Grave 2017).

    .. math:: \log p(v \mid h) = \log p_1(\mathrm{tail}\,k \mid h) + \log p_k(v \mid P_k h)

    for a class of the tail k, and :math:`\log p_1(v \mid h)` for the frequent ones: ``functional.adaptive``. Exact: the
    probabilities of all V classes sum to 1. The loss costs the rows of the clusters that its targets are in, and those
    of tails are few features wide. With the same weights it is ``torch.nn.AdaptiveLogSoftmaxWithLoss``.

    Args:
        in_features: D.
        num_classes: V, numbered by falling frequency, as vocabularies have them.
        cutoffs: the first class of each tail, rising. None: a fifteenth and a fifth of V. Empty: the full softmax.
        div_value: each tail is so many times narrower than the one before: D_k = D / div_value^k, 1 at least.
        options: of the softmax that each cluster is: ``bias``, ``ignore_index``, ``compute_dtype``, ``device``,
            ``dtype``, by name, as :class:`firstsight.Softmax`.

    Attributes:
        first: the output layer of the frequent classes and, after them, of a row for each tail, [c_1 + K, D]; and of
            the classes that came later, by ``add_classes``.
        frequent: int64 buffer, c_1.
        tails: K of :class:`Tail`.

    Raises:
        InputError: (a ``ValueError``) as :class:`firstsight.Softmax`, or cutoffs or div_value are not as above. From
            ``loss``: label smoothing and logit adjustment, which are of all classes.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of activations [..., D]: those that are normalised already, ``log_prob``."""
        return self.log_prob(hidden)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p [..., V] of activations [..., D], in float32 at least."""
        first, frequent = self.first.log_prob(hidden), self._frequent
        tails = [
            tail.softmax.log_prob(F.linear(hidden, tail.projection)) + first[..., frequent + k, None]
            for k, (tail, _, _) in enumerate(self._tails())
        ]
        return self._of_words(first, tails, dim=-1)

    def loss(
        self,
        hidden: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        logit_adjustment: float | Tensor | None = None,
    ) -> Tensor:
        """Mean NLL in nats over the tokens that count, 0 when none does; arguments as :meth:`firstsight.Softmax.loss`.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as there; label smoothing or logit adjustment, for
                which the logits of all clusters would have to be made.
        """
        if label_smoothing or logit_adjustment is not None:
            raise InputError(
                "label_smoothing and logit_adjustment are terms over all classes, of which an adaptive softmax makes "
                "those of the target's cluster alone. Leave them out, or use firstsight.Softmax or HebbianSoftmax."
            )
        if weight is not None:
            check_class_weight(weight, self.num_classes)
            target = as_labels(target)
            return weighted_mean(self.nll(hidden, target), target, weight, self.ignore_index)
        return self.loss_and_nll(hidden, target)[0]

    def loss_and_nll(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``loss``, and the NLL of each token [...] that it is the mean of, outside the graph, at no extra cost."""
        total, nll = self._sum_and_nll(hidden, as_labels(target), "sum")
        return total / (target != self.ignore_index).sum().clamp(min=1), nll

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """NLL in nats of each token, [...]; 0 where target is ``ignore_index``. Arguments as ``loss``."""
        return self._sum_and_nll(hidden, as_labels(target), "none")[0]

    @_disable_dynamo
    def _sum_and_nll(self, hidden: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        """The sum of the loss, or one value a token, and the NLL [...] of each token outside the graph.

        Every cluster takes part, with tokens or without: its gradient is zeros then, not None, so that all processes
        of a job have gradients of the same parameters.
        """
        loss: Tensor | float = 0.0
        dtype = torch.promote_types(self.first.weight.dtype, torch.float32)
        nll = torch.zeros(target.shape, dtype=dtype, device=target.device)
        for layer, h, y, own in self._clusters(hidden, target):
            each = nll.new_empty(y.shape)
            part = layer._cross_entropy(h, y, reduction, each)
            if own is None:
                loss, nll = loss + part, nll + each
            else:
                loss = loss + (part.new_zeros(own.shape).masked_scatter(own, part) if reduction == "none" else part)
                nll = nll + torch.zeros_like(nll).masked_scatter(own, each)
        return cast(Tensor, loss), nll

    def _clusters(self, hidden: Tensor, target: Tensor) -> Iterator[tuple[Softmax, Tensor, Tensor, Tensor | None]]:
        """Each cluster's layer, and activations and labels in it: first all [...], then the tails' [n] and which."""
        check_shapes(hidden, self.first.weight, target)
        counts = target != self.ignore_index
        if (kept_N := target[counts]).numel():
            check_range(int(kept_N.min()), int(kept_N.max()), self.num_classes, self.ignore_index)
        target = target.where(counts, IGNORE_INDEX)
        yield self.first, hidden, first_labels(target, self._edges()), None
        for tail, start, end in self._tails():
            own = (target >= start) & (target < end)
            yield tail.softmax, self._projected(hidden[own], tail), target[own] - start, own

    def _projected(self, hidden: Tensor, tail: Tail) -> Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            return F.linear(hidden, tail.projection)
        dtype = torch.promote_types(hidden.dtype, tail.projection.dtype)
        return F.linear(hidden.to(dtype), tail.projection.to(dtype))

    @torch.no_grad()
    def topk(self, hidden: Tensor, k: int) -> torch.return_types.topk:
        """The k largest log p and their classes, each [..., k], the largest first, in tiles: never an [N, V] tensor.

        Arguments and errors as :meth:`firstsight.Softmax.topk`.
        """
        if not 1 <= k <= self.num_classes:
            raise InputError(f"k is {k}; expected 1 to the number of classes, {self.num_classes}.")
        if hidden.shape[-1:] != self.first.weight.shape[1:]:
            raise InputError(f"hidden is {list(hidden.shape)}; expected [..., {self.in_features}], as the rows are.")
        h_ND = hidden.reshape(-1, self.in_features).to(self.first.weight.dtype)
        norm_N1 = log_sum_exp(h_ND, self.first.weight, self.first.bias, h_ND.dtype)[:, None]
        found, frequent = [], self._frequent
        for rows, start in zip(self._words(), (0, self._edges()[-1]), strict=True):
            found.append(_largest(self.first, h_ND, rows, -norm_N1, start, k))
        clusters_NC = _logits(self.first, h_ND, slice(frequent, frequent + len(self.tails))) - norm_N1
        for (tail, start, _), log_share_N in zip(self._tails(), clusters_NC.unbind(1), strict=True):
            layer, h_Nd = tail.softmax, F.linear(h_ND, tail.projection)
            norm_N = log_sum_exp(h_Nd, layer.weight, layer.bias, h_ND.dtype)
            found.append(_largest(layer, h_Nd, slice(None), (log_share_N - norm_N)[:, None], start, k))
        best = torch.cat([values for values, _ in found], 1).topk(k)
        chosen = torch.cat([classes for _, classes in found], 1).gather(1, best.indices)
        shape = (*hidden.shape[:-1], k)
        return torch.return_types.topk((best.values.view(shape), chosen.view(shape)))

    def embedding(self, tokens: Tensor) -> Tensor:
        r"""What each class's row is in the activations' space, [..., D]: a tied input embedding (Baevski & Auli 2019).

        .. math:: E[v] = \theta_v \text{ in the first cluster}, \qquad P_k^\top \theta_v \text{ in the tail k}

        Args:
            tokens: [...] classes, in [0, V).
        """
        x = self.first.embedding(first_labels(tokens, self._edges()))
        for tail, start, end in self._tails():
            own = (tokens >= start) & (tokens < end)
            rows = tail.softmax.embedding(tokens[own] - start) @ tail.projection
            x = torch.where(own[..., None], torch.zeros_like(x).masked_scatter(own[..., None], rows.to(x.dtype)), x)
        return x


def _logits(layer: Softmax, h_ND: Tensor, rows: slice) -> Tensor:
    return F.linear(h_ND, layer.weight[rows], None if layer.bias is None else layer.bias[rows])


def _largest(layer: Softmax, h_ND: Tensor, rows: slice, offset_N1: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The largest logits [N, up to k] of some rows, with an offset, and their classes, numbered from ``start``."""
    weight, bias = layer.weight[rows], None if layer.bias is None else layer.bias[rows]
    if not len(weight):
        return h_ND.new_empty(len(h_ND), 0), torch.empty(len(h_ND), 0, dtype=torch.int64, device=h_ND.device)
    values, classes = largest_logits(h_ND, weight, bias, min(k, len(weight)))
    return values + offset_N1, classes + start


def _shared(name: str, doc: str) -> Any:
    """A setting that is that of every cluster."""

    def get(head: "HebbianAdaptiveSoftmax") -> Any:
        return getattr(head.first, name)

    def set_(head: "HebbianAdaptiveSoftmax", value: Any) -> None:
        for layer in head._layers():
            setattr(layer, name, value)

    return property(get, set_, doc=doc)


class HebbianAdaptiveSoftmax(AdaptiveSoftmax):
    r"""An :class:`AdaptiveSoftmax` that writes, each cluster in its own space: :math:`P_k h` into a row of the tail k.

    Every cluster is a :class:`firstsight.HebbianSoftmax`, with counts, moments and first sights of its own. The rows
    that stand for the tails in the first cluster are no classes: no write touches them, they are learnt (our
    decision).

    Arguments, attributes and errors of both. Classes that come later, by ``add_classes``, come to the first cluster,
    and are known at first sight as those of a :class:`firstsight.HebbianSoftmax`. Of a class of a tail that was there
    all along and never met, a write in service changes its share of the tail, not the tail's.

    Attributes:
        counts: [V] int64, 1 + occurrences in training: a copy, the buffers are the clusters'.
    """

    _softmax: ClassVar[type[Softmax]] = HebbianSoftmax

    T = _shared("T", "As of each cluster: a row is written until its class has been seen T times.")
    gamma = _shared("gamma", "As of each cluster: smallest rate of the write.")
    price = _shared("price", "As of each cluster: what a new class may cost.")
    cap = _shared("cap", "As of each cluster: the share of all activations that new classes may take.")

    def _hebbian(self) -> list[HebbianSoftmax]:
        return [cast(HebbianSoftmax, layer) for layer in self._layers()]

    def _set_frequent(self, n: int) -> None:
        super()._set_frequent(n)
        self._hebbian()[0]._spared = range(n, n + len(self._sizes()) - 2)

    @property
    def rule(self) -> str:
        """As of each cluster."""
        return self._hebbian()[0].rule

    @property
    def objective(self) -> str:
        """As of each cluster."""
        return self._hebbian()[0].objective

    @property
    def counts(self) -> Tensor:
        """[V] int64, a copy."""
        first, *tails = (layer.counts for layer in self._hebbian())
        return self._of_words(first, tails)

    @torch.no_grad()
    def write(self, hidden: Tensor, target: Tensor) -> None:
        """One write now, without an optimizer, as :meth:`firstsight.HebbianSoftmax.write`, in the targets' clusters.

        Args:
            hidden: [..., D] float.
            target: [...] int64, in [0, V) or ``ignore_index``.

        Raises:
            InputError: (a ``ValueError``) shapes or labels are not as above, or hidden is not finite. Nothing has
                changed.
        """
        frequent, later = self._words()[0].stop, self._words()[1].start
        parts, left = [], True
        with torch.autocast(hidden.device.type, enabled=False):
            for layer, h, y, own in self._clusters(hidden, as_labels(target)):
                if own is None:  # a row that stands for a tail is no class
                    y = y.where((y < frequent) | (y >= later), IGNORE_INDEX)
                if len(seen := y[y != IGNORE_INDEX]):
                    hebbian = cast(HebbianSoftmax, layer)
                    parts.append((hebbian, hebbian._prepared(h, y)))
                    left = left and hebbian._leaves_alone(seen)
        if parts and left:
            warn(NOTHING_WRITTEN)
        for hebbian, sums in parts:
            hebbian._apply_sums(sums, hebbian.T, training=False)

    @contextmanager
    def looking(self, *, group: Group = None) -> Iterator[None]:
        """Show all clusters what they were trained on, as :meth:`firstsight.HebbianSoftmax.looking`.

        A tail of which no example came stays as it was.
        """
        with looking(self._hebbian(), group):
            yield
