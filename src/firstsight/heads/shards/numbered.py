"""Which classes of a head this process has: their numbers, as they come and go, and as a state has them.

Shapes: V classes, V_r of them on rank r, D features.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, class_labels
from firstsight.heads.head import Head
from firstsight.heads.shards.ranks import Ranks
from firstsight.heads.softmax import Softmax
from firstsight.heads.steps.agreement import digest
from firstsight.heads.steps.exchange import Group, introduce
from firstsight.heads.steps.growth import grow_, shrink_
from firstsight.heads.steps.whole import uninterrupted

if TYPE_CHECKING:
    Whole = Softmax
else:  # what stands between them and a head are the layers of the write, where there is one
    Whole = Head


class Numbered(Whole):
    """A head that has every R-th class; ``Parts`` is one with a loss over all.

    Arguments, attributes and errors as
    :class:`firstsight.ShardedSoftmax`.
    """

    classes: Tensor
    part: Tensor

    def __init__(self, in_features: int, num_classes: int, *args: Any, group: Group = None, **options: Any) -> None:
        self._ranks, self._total = Ranks(group), num_classes
        size, rank = self._ranks.size, self._ranks.rank
        if size > 1 and num_classes < size:
            raise InputError(f"num_classes is {num_classes} and there are {size} processes; expected one class each.")
        own_V = torch.arange(rank, num_classes, size, device="cpu")
        super().__init__(in_features, len(own_V) if size > 1 else num_classes, *args, **options)
        if size > 1 and self.ignore_index >= 0:
            raise InputError(
                f"ignore_index is {self.ignore_index}, which is a class too; a head of several processes needs one "
                "below 0. Let labels that do not count be -100."
            )
        self._number(own_V)
        introduce(self._ranks.group, self.weight)  # a process that never gets to the first loss is known by then

    def _number(self, classes: Tensor) -> None:
        """The classes of this rank [V_r] in rising order, of ``_total``."""
        device = self.weight.device
        device = torch.device("cpu") if device.type == "meta" else device
        size, rank = self._ranks.size, self._ranks.rank
        # Where all are here, a state is that of the head behind it, and there is nothing to tell.
        self.register_buffer("classes", classes.to(device), persistent=size > 1)
        self.register_buffer("part", torch.tensor([rank, size, self._total], device=device), persistent=size > 1)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = self.classes
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._number(before)  # which to_empty does not keep
        return self

    @property
    def num_classes(self) -> int:
        """V, of all processes."""
        return self._total

    @property
    def _own_gradients(self) -> bool:
        """Whether other processes have nothing to do with the gradients of its parameters: see ``prepare_ddp``."""
        return self._ranks.size > 1

    def _alone(self) -> bool:
        self._ranks.check()
        return self._ranks.size == 1

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Let what is drawn be other numbers on each rank, whose generators go on alike."""
        if self._alone():
            yield
            return
        seed = int(torch.randint(2**48, (), device="cpu")) + self._ranks.rank
        is_cuda = self.weight.is_cuda
        with torch.random.fork_rng([self.weight.device] if is_cuda else []):
            if is_cuda:
                torch.cuda.manual_seed(seed)
            torch.default_generator.manual_seed(seed)
            yield

    def reset_parameters(self) -> None:
        """Start afresh; each rank draws rows of its own, from one seed that the generators of all give."""
        with self._drawing():
            super().reset_parameters()

    def add_classes(self, n: int) -> None:
        """As of the head behind it: class V + i comes to rank (V + i) % R. A collective; nothing of size V is sent."""
        if n < 1:
            raise InputError(f"n is {n}; expected 1 or more new classes.")
        size, rank = self._ranks.size, self._ranks.rank
        self._check_alike(torch.tensor([n]), f"add_classes({n})")
        new = torch.arange(self._total, self._total + n, device=self.classes.device)
        own = new[new % size == rank]
        with self._drawing(), uninterrupted():
            if self._alone() or len(own):
                super().add_classes(len(own))
            else:
                self._drawing_nothing()
            self._total += n
            self._number(torch.cat([self.classes, own]))

    def _check_alike(self, numbers: Tensor, what: str) -> None:
        """Raise InputError on all processes unless each of them gives the same numbers."""
        if not self._alone():
            told = digest({"numbers": tuple(numbers.tolist())})
            least, most = self._ranks.max_(torch.tensor([-told, told], device=self.classes.device)).tolist()
            if -least != most:
                raise InputError(
                    f"the processes differ in what they were given, here {what}; expected the same on all."
                )

    def _drawing_nothing(self) -> None:
        """Take part in a growth of which nothing comes here."""

    def remove_classes(self, classes: Classes) -> None:
        """As of the head behind it: each rank forgets its own, and all are numbered anew. A collective.

        Raises:
            InputError: (a ``ValueError``) as there, or classes are all of those of one rank. Nothing has changed.
        """
        if self._alone():
            with uninterrupted():
                super().remove_classes(classes)
                self._total = len(self.weight)
                self._number(torch.arange(self._total, device=self.classes.device))
            return
        gone = class_labels(classes, self._total, "classes").to(self.classes.device).sort().values
        if len(gone) in (0, self._total):
            raise InputError(f"classes are {len(gone)} of {self._total}; expected some of them, not all.")
        self._check_alike(gone, f"remove_classes of {len(gone)} classes")
        stays = ~torch.isin(self.classes, gone)
        if int(self._ranks.max_(torch.tensor(int(not bool(stays.any())), device=gone.device))):
            raise InputError("classes are all of those of one process, which would have none. Leave it one of them.")
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        kept = stays.nonzero()[:, 0]
        optimizers = self._growable(parameters)
        with uninterrupted():
            self._keep_classes(kept.to(self.weight.device), parameters, optimizers)
            left = self.classes[kept]
            self._total -= len(gone)
            self._number(left - torch.searchsorted(gone, left))

    @torch.no_grad()
    def _copy(self, linear: Any) -> None:
        """Take this rank's rows of a whole layer."""
        own_V = self.classes.to(linear.weight.device)
        self.weight.copy_(linear.weight[own_V])
        if self.bias is not None:
            self.bias.copy_(linear.bias[own_V])

    def _fit(self, n: int) -> None:
        """Have n rows, of which nothing is known yet."""
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        rows, optimizers = len(self.weight), self._growable(parameters)
        for parameter in parameters:
            if n > rows:
                grow_(parameter, n - rows, 0.0, optimizers)
            elif n < rows:
                shrink_(parameter, torch.arange(n, device=self.weight.device), optimizers)
        self._number(self.classes.new_zeros(n))

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        part = f"{super().extra_repr()}"
        return part if self._ranks.size == 1 else f"{part}, part {self._ranks.rank} of {self._ranks.size}"
