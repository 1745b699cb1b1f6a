"""Classes in clusters by falling frequency, each with an output layer of its own, and what happens to all of them.

Shapes: V classes, D features, K tails, D_k features of a tail; [...] stands for any leading dimensions.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.adaptive import checked_cutoffs, widths
from firstsight.functional.checks import IGNORE_INDEX, Classes, class_labels
from firstsight.heads.softmax import Softmax
from firstsight.heads.steps.attachment import Handle
from firstsight.heads.steps.exchange import Group
from firstsight.heads.steps.whole import uninterrupted


class Tail(nn.Module):
    """A cluster of rare classes: a softmax of the activations' projection.

    Attributes:
        projection: [D_k, D] parameter, its rows orthonormal at the start, so that an activation's features are as large
            in the cluster as outside it, and an embedding's, which goes the other way, as large as one of the first
            cluster (our decision).
        softmax: the cluster's own output layer, [V_k, D_k].
    """

    def __init__(self, in_features: int, softmax: Softmax) -> None:
        super().__init__()
        self.softmax = softmax
        self.projection = nn.Parameter(softmax.weight.new_empty(softmax.in_features, in_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The projection afresh, and it alone."""
        if not self.projection.is_meta:  # which has no decomposition in half precision
            wide = self.projection.new_empty(self.projection.shape, dtype=torch.float32)
            self.projection.copy_(nn.init.orthogonal_(wide))


class Clusters(nn.Module):
    """A first cluster of frequent classes and narrower tails, without a loss: ``AdaptiveSoftmax`` is one with.

    Arguments, attributes and errors as :class:`firstsight.AdaptiveSoftmax`.
    """

    frequent: Tensor
    _softmax: ClassVar[type[Softmax]] = Softmax

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        cutoffs: Sequence[int] | None = None,
        div_value: float = 4.0,
        *,
        ignore_index: int = IGNORE_INDEX,
        **options: Any,
    ) -> None:
        super().__init__()
        if in_features < 1 or num_classes < 1:
            raise InputError(f"in_features is {in_features} and num_classes {num_classes}; expected 1 or more of each.")
        edges = checked_cutoffs(cutoffs, num_classes)
        self.ignore_index = ignore_index  # here alone: in a cluster the same number is another class
        ends = [*edges, num_classes]
        self.first = self._softmax(in_features, ends[0] + len(edges), **options)
        sizes = zip(widths(in_features, len(edges), div_value), ends[:-1], ends[1:], strict=True)
        self.tails = nn.ModuleList(
            Tail(in_features, self._softmax(width, end - start, **options)) for width, start, end in sizes
        )
        self._set_frequent(ends[0])

    def _set_frequent(self, n: int) -> None:
        """A number beside the buffer that saves it: to ask a device would be to wait for it."""
        self._frequent = n
        device = self.first.weight.device
        self.register_buffer("frequent", torch.tensor(n, device="cpu" if device.type == "meta" else device))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set_frequent(self._frequent)  # which to_empty does not keep
        return self

    def reset_parameters(self) -> None:
        """Start afresh."""
        self.first.reset_parameters()
        for tail, _, _ in self._tails():
            tail.softmax.reset_parameters()
            tail.reset_parameters()

    def start_bias(self, counts: Tensor) -> None:
        """Start the biases at the log of each class's share, as :meth:`firstsight.Softmax.start_bias`.

        Args:
            counts: [V] how often each class occurs in training, 0 or more.

        Raises:
            InputError: (a ``ValueError``) the layers have no bias, or counts is not as above.
        """
        if counts.shape != (self.num_classes,) or bool((counts < 0).any()):
            raise InputError(
                f"counts is {list(counts.shape)}; expected [{self.num_classes}] occurrences, each 0 or more."
            )
        parts = torch.split(counts, self._sizes())
        for layer, part in zip(self._layers()[1:], parts[1:-1], strict=True):
            layer.start_bias(part)
        self.first.start_bias(torch.cat([parts[0], *(part.sum()[None] for part in parts[1:-1]), parts[-1]]))

    @property
    def in_features(self) -> int:
        """D."""
        return self.first.in_features

    @property
    def num_classes(self) -> int:
        """V."""
        return sum(self._sizes())

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The first class of each tail."""
        return self._edges()[:-1]

    @property
    def attached(self) -> bool:
        """Whether there is an optimizer whose steps it follows."""
        return self.first.attached

    def _tails(self) -> list[tuple[Tail, int, int]]:
        """The tails, each with its first class and the one after its last."""
        edges = self._edges()
        return list(zip(cast(list[Tail], list(self.tails)), edges[:-1], edges[1:], strict=True))

    def _layers(self) -> list[Softmax]:
        return [self.first, *(cast(Tail, tail).softmax for tail in self.tails)]

    def _named_layers(self) -> list[tuple[str, Softmax]]:
        names = ["first", *(f"tails.{k}.softmax" for k in range(len(self.tails)))]
        return list(zip(names, self._layers(), strict=True))

    def _sizes(self) -> list[int]:
        """The number of frequent classes, of those of each tail, and of those that came later."""
        later = len(self.first.weight) - self._frequent - len(self.tails)
        return [self._frequent, *(len(layer.weight) for layer in self._layers()[1:]), later]

    def _edges(self) -> tuple[int, ...]:
        """The first class of each tail, and where the last one ends."""
        return tuple(accumulate(self._sizes()[:-1]))

    def _words(self) -> list[slice]:
        """The rows of the first cluster that are classes: the frequent ones, and those that came later."""
        return [slice(0, self._frequent), slice(self._frequent + len(self.tails), None)]

    def _of_words(self, first: Tensor, tails: list[Tensor], dim: int = 0) -> Tensor:
        """What there is of each row of the clusters as what there is of each class, [V] along ``dim``."""
        frequent, later = (first[(..., rows) if dim else rows] for rows in self._words())
        return torch.cat([frequent, *tails, later], dim)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        theirs = self._sizes_in(state_dict, prefix)
        if theirs is None:
            rest[-1].append("the state has no such clusters: their rows or their sizes are missing or damaged.")
            return
        if theirs and theirs != self._sizes():
            cutoffs = list(accumulate(theirs[:-2]))
            grow = f", then add_classes({theirs[-1]})" if theirs[-1] else ""
            rest[-1].append(  # torch's list of messages
                f"the state is of {sum(theirs)} classes with cutoffs {cutoffs}, the head of {self.num_classes} with "
                f"{list(self.cutoffs)}. Make it with num_classes={sum(theirs[:-1])}, cutoffs={cutoffs}{grow}."
            )
            return  # this head stays as it was
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def _sizes_in(self, state_dict: dict[str, Any], prefix: str) -> list[int] | None:
        """``_sizes`` of a state; empty if it has none, None if they are no sizes."""
        if (frequent := state_dict.get(f"{prefix}frequent")) is None:
            return []
        tails: list[int] = []
        try:
            while (rows := state_dict.get(f"{prefix}tails.{len(tails)}.softmax.weight")) is not None:
                tails.append(len(rows))
            return [int(frequent), *tails, len(state_dict[f"{prefix}first.weight"]) - int(frequent) - len(tails)]
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError):
            return None

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}, cutoffs={self.cutoffs}"

    def attach(self, optimizer: torch.optim.Optimizer, *, group: Group = None, after: int = 0) -> Handle:
        """Tie all clusters to an optimizer, as :meth:`firstsight.Softmax.attach`; arguments and errors as there."""
        handles: list[Handle] = []

        def remove() -> None:
            for handle in handles:
                handle.remove()

        try:
            for name, layer in self._named_layers():  # noqa: B007 - for the message
                handles.append(layer.attach(optimizer, group=group, after=after))
        except InputError as error:
            remove()
            raise InputError(f"{name}: {error}") from None
        return Handle(remove)

    @uninterrupted()
    def add_classes(self, n: int) -> None:
        """Grow by n classes, as :meth:`firstsight.Softmax.add_classes`.

        They come to the first cluster, in the full space of the activations, whatever their frequency: a tail tells its
        classes from each other, but an activation of a class that none of its rows has learnt would hardly find the
        way there (our decision; measured in docs/language.md).

        Args:
            n: how many, 1 or more.
        """
        self.first.add_classes(n)

    @uninterrupted()
    def remove_classes(self, classes: Classes) -> None:
        """Forget classes, as :meth:`firstsight.Softmax.remove_classes`; those after them move up, in their clusters.

        Args:
            classes: labels in [0, V), each once; one at least, and not all of any cluster.

        Raises:
            InputError: (a ``ValueError``) classes are not as above, or see there. Nothing has changed.
        """
        gone = class_labels(classes, self.num_classes, "classes")
        if len(gone) in (0, self.num_classes):
            raise InputError(f"classes are {len(gone)} of {self.num_classes}; expected some of them, not all.")
        edges = (0, *self._edges())
        parts = [gone[(gone >= start) & (gone < end)] - start for start, end in pairwise(edges)]
        for part, (start, end) in zip(parts, pairwise(edges), strict=True):
            if len(part) == end - start:
                raise InputError(
                    f"classes are all of the cluster from {start} to {end - 1}, and one that is empty has nothing to "
                    "tell. Leave one of them, or make a layer with other cutoffs."
                )
        for layer in self._layers():
            layer._growable(list(layer.parameters(recurse=False)))
        frequent, later = parts[0], gone[gone >= edges[-1]] - edges[-1] + self._words()[1].start
        for layer, part in zip(self._layers(), [torch.cat([frequent, later]), *parts[1:]], strict=True):
            if len(part):
                layer.remove_classes(part)
        self._set_frequent(self._frequent - len(frequent))
