"""Training batches out of one long text.

Shapes: B sequences of a batch, S tokens of a sequence.
"""

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError


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
