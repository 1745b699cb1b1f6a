"""The learning curve of a class: how well its k-th sight is predicted.

Shapes: N tokens of a step, V classes, K buckets of "seen k times so far".
"""

from typing import Any

import torch
from torch import Tensor

BUCKETS = 40  # 0, 1, 2-3, 4-7, ... up to 2^39 sights


class Sights:
    r"""Sums up the NLL of training targets by how often their class had been a target in the steps before.

    Bucket k = 0 holds first sights; bucket k = 1, 2, 4, 8, ... those of classes seen k to 2k - 1 times. The tokens
    of one step all count as before it, so a class that comes twice in the step of its first sight has two tokens
    in bucket 0: the model could not have learnt between them. Runs that read the same batches have the same tokens
    in each bucket, so that their curves can be held against each other token by token. Our
    decision: the measure is not the paper's, whose Figure 5 shows all classes at once.

    Args:
        num_classes: V.
    """

    def __init__(self, num_classes: int) -> None:
        self.seen_V = torch.zeros(num_classes, dtype=torch.int64)
        self._fresh_V = torch.zeros(num_classes, dtype=torch.int64)
        self._tokens_K = torch.zeros(BUCKETS, dtype=torch.int64)
        self._sums_K = torch.zeros(BUCKETS, dtype=torch.float64)

    def add(self, nll: Tensor, target: Tensor) -> None:
        """Take in tokens of the step: nll [...] in nats as it was before the step, target [...] int64 in [0, V)."""
        y_N = target.flatten().cpu()
        seen_N = self.seen_V[y_N]
        # frexp is exact: seen = mantissa * 2^exponent with the mantissa in [1/2, 1), and 0 has the exponent 0.
        bucket_N = torch.frexp(seen_N.double())[1].long()
        self._tokens_K += torch.bincount(bucket_N, minlength=BUCKETS)
        self._sums_K += torch.bincount(bucket_N, weights=nll.flatten().cpu().double(), minlength=BUCKETS)
        self._fresh_V += torch.bincount(y_N, minlength=len(self.seen_V))

    def step(self) -> None:
        """The step is done: what was added since the last one has now been seen."""
        self.seen_V += self._fresh_V
        self._fresh_V.zero_()

    def take(self) -> list[dict[str, Any]]:
        """``{"seen": k, "tokens": n, "nll": mean}`` of each bucket that is not empty; starts the sums afresh."""
        found = [
            {"seen": 2 ** (bucket - 1) if bucket else 0, "tokens": tokens, "nll": total / tokens}
            for bucket, (tokens, total) in enumerate(zip(self._tokens_K.tolist(), self._sums_K.tolist(), strict=True))
            if tokens
        ]
        self._tokens_K.zero_()
        self._sums_K.zero_()
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs, between steps."""
        return {"seen": self.seen_V, "tokens": self._tokens_K, "sums": self._sums_K}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state``."""
        self.seen_V, self._tokens_K, self._sums_K = state["seen"], state["tokens"], state["sums"]
