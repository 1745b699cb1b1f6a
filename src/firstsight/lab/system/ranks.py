"""The processes of a job as the equal shares of one: what each has of it, and what all of them decide together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from firstsight.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """The processes of a job as one of them sees them. Every method is a collective: all ranks call it, or none.

    On one process each method gives back what it was given.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    """of the collectives"""

    @property
    def first(self) -> bool:
        """Whether it is this process that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's of ``count`` things in a row; shares differ by one at most. (No collective.)"""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean(self, value: float) -> float:
        """The mean over the ranks, in float64."""
        return self.sum(torch.tensor(value, dtype=torch.float64)).item() / self.size if self.size > 1 else value

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, the same bits on each, where the tensor was."""
        if self.size == 1:
            return tensor
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def most(self, *values: int) -> list[int]:
        """The largest over the ranks of each."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that succeeds on every rank or on none; what is in it is no collective.

        Raises:
            InputError: on a rank that had no error of its own, where another had one: the first one's, with its rank.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        if self.size > 1:
            told = None if own is None else (str(own), getattr(own, "exit_code", 2))
            errors: list[tuple[str, int] | None] = [None] * self.size
            dist.all_gather_object(errors, told)
            if own is None and (failed := [at for at, error in enumerate(errors) if error]):
                message, code = errors[failed[0]] or ("", 2)
                own = InputError(f"rank {failed[0]}: {message}")
                own.exit_code = code
        if own is not None:
            raise own

    def check_same(self, **values: Any) -> None:
        """Raise InputError unless all ranks have equal values: they may run on machines of their own."""
        if self.size == 1:
            return
        texts = {name: repr(value) for name, value in values.items()}
        all_texts: list[dict[str, str]] = [{}] * self.size
        dist.all_gather_object(all_texts, texts)
        for rank, theirs in enumerate(all_texts):
            for name, text in theirs.items():
                if text != all_texts[0][name]:
                    raise InputError(
                        f"the ranks differ in their {name}: {all_texts[0][name]} on rank 0, {text} on rank {rank}. "
                        "Give all machines the same command and data, and an --out that all of them see."
                    )

    def seed_others(self, seed: int, step: int) -> None:
        """Random numbers of a step for all ranks but the first, which goes on with its own: no two ranks' are alike.

        From (seed, step, rank), so that nothing of them needs to be saved. (No collective.)
        """
        if not self.first:
            mixed = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))


ALONE = Ranks()
