"""Training batches out of one long text, and what each process of a job has of them.

Shapes: B sequences of a batch, S tokens of a sequence, L layers of the LSTM, H its units.
"""

import math

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.lm.recurrent.plain import State
from firstsight.lab.system.ranks import Ranks


class Batches:
    """Cuts the text into B contiguous streams and gives step k the k-th S tokens of each, epoch after epoch.

    The batch depends on the step alone, so a resumed run goes on where it was. The input of a sequence's first
    token is the token before it, ``<eos>`` at the very beginning. The few tokens at the end of a stream that do
    not fill a sequence are left out.
    """

    def __init__(self, tokens: np.ndarray, batch: int, length: int, eos_id: int) -> None:
        self.tokens, self.length, self.eos_id = tokens, length, eos_id
        self.steps_per_epoch = len(tokens) // batch // length
        if not self.steps_per_epoch:
            raise InputError(
                f"the training text has {len(tokens):,} tokens, too few for one batch of {batch} sequences of {length} "
                f"tokens. Give more text, or a smaller --batch or --length."
            )
        self.starts_B1 = (np.arange(batch) * (len(tokens) // batch))[:, None]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, bool]:
        """Input [B, S] and target [B, S], long, and whether an epoch begins here."""
        position = step % self.steps_per_epoch
        index_BS = self.starts_B1 + position * self.length + np.arange(self.length)
        target_BS = self.tokens[index_BS].astype(np.int64)
        input_BS = np.where(index_BS > 0, self.tokens[np.maximum(index_BS - 1, 0)], self.eos_id).astype(np.int64)
        return torch.from_numpy(input_BS), torch.from_numpy(target_BS), position == 0


class Share:
    """The sequences of each batch that are one rank's, and the parts in which it works through them.

    Consecutive ones, a rank's being one more than another's where they do not divide. ``accumulate`` parts in all go
    side by side in the ranks first: each has ceil(accumulate / ranks), so that no part is larger than on one process.

    Raises:
        InputError: more ranks than sequences.
    """

    def __init__(self, batch: int, accumulate: int, ranks: Ranks) -> None:
        if batch < ranks.size:
            raise InputError(
                f"batch is {batch}, of all processes together, and there are {ranks.size} of them; expected at least "
                "one sequence for each. Raise --batch, or give torchrun fewer processes."
            )
        self.batch, self.ranks = batch, ranks
        self.rows = ranks.share(batch)
        count = self.rows.stop - self.rows.start
        parts = min(math.ceil(accumulate / ranks.size), count)
        self.parts = [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
        """within the rank's own sequences"""

    def weight(self, part: slice) -> float:
        """What a mean over a part is divided by, so that the mean over the ranks of their sums is that of the batch."""
        return self.batch / (int(part.stop - part.start) * self.ranks.size)

    def others(self, batch: Tensor) -> Tensor:
        """What of a batch [B, ...] is the other ranks'."""
        return torch.cat([batch[: self.rows.start], batch[self.rows.stop :]])

    def of(self, state: State | None) -> State | None:
        """This rank's part of an LSTM's state [L, B, H] of the whole batch."""
        return None if state is None else (state[0][:, self.rows], state[1][:, self.rows])

    def whole(self, state: State | None) -> State | None:
        """The reverse of ``of``: a collective."""
        if state is None or self.ranks.size == 1:
            return state
        whole = [own_LBH.new_zeros(len(own_LBH), self.batch, own_LBH.shape[2]) for own_LBH in state]
        for own_LBH, all_LBH in zip(state, whole, strict=True):
            all_LBH[:, self.rows] = own_LBH
        return self.ranks.sum(whole[0]), self.ranks.sum(whole[1])
