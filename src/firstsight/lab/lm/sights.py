"""The learning curve of a class: how well its k-th sight is predicted.

Training puts ``"sights": [{"seen": k, "tokens": n, "nll": x}, ...]`` into each line of ``metrics.jsonl``: of the steps
since the line before, each bucket of ``Sights``.

Shapes: N tokens of a step, V classes, K buckets of "seen k times so far".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.system.ranks import ALONE, Ranks
from firstsight.lab.system.shape import is_number_or_none, is_whole, shown

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
        ranks: each adds its own tokens of a step and is shown those of the others; ``take`` and ``state`` are of all.
    """

    def __init__(self, num_classes: int, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
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
        self.show(y_N)

    def show(self, target: Tensor) -> None:
        """Targets of the step whose NLL another rank adds, [...] int64."""
        self._fresh_V += torch.bincount(target.flatten(), minlength=len(self.seen_V))

    def step(self) -> None:
        """The step is done: what was added since the last one has now been seen."""
        self.seen_V += self._fresh_V
        self._fresh_V.zero_()

    def take(self) -> list[dict[str, Any]]:
        """``{"seen": k, "tokens": n, "nll": mean}`` of each bucket that is not empty; starts the sums afresh."""
        state = self.state()
        found = [
            {"seen": 2 ** (bucket - 1) if bucket else 0, "tokens": tokens, "nll": total / tokens}
            for bucket, (tokens, total) in enumerate(zip(state["tokens"].tolist(), state["sums"].tolist(), strict=True))
            if tokens
        ]
        self._tokens_K.zero_()
        self._sums_K.zero_()
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs, between steps."""
        return {
            "seen": self.seen_V,
            "tokens": self.ranks.sum(self._tokens_K),
            "sums": self.ranks.sum(self._sums_K),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state``."""
        self.seen_V, self._tokens_K, self._sums_K = state["seen"], state["tokens"], state["sums"]
        if not self.ranks.first:  # the first has them for all
            self._tokens_K.zero_()
            self._sums_K.zero_()


Bucket = tuple[int, float]
MEND = "Delete the line, or train anew."


def sight_curve(
    metrics: Sequence[Mapping[str, Any]], since: float = 0.0, source: str = "metrics.jsonl"
) -> list[tuple[int, int, float]]:
    """Add up the buckets of a run's lines, each weighted by its tokens.

    ``tokens_k = sum_i n_ik`` and ``nll_k = sum_i n_ik x_ik / tokens_k`` over the lines i. Lines without sights, as
    runs had before they were recorded, add nothing; neither does a bucket whose mean is null or not finite.

    Args:
        metrics: the lines of ``metrics.jsonl``.
        since: only lines all of whose steps lie after this fraction of the run's; 0 for the whole training.
        source: where the lines come from, for messages.

    Returns:
        ``(k, tokens, nll)``, k rising, nll in nats; empty without sights.
    """
    tokens: dict[int, int] = {}
    nats: dict[int, float] = {}
    before = 0
    for line in metrics:
        # Dividing, unlike multiplying, makes 7 of 100 steps exactly the 0.07 that a user writes.
        counts = not since or before / metrics[-1]["step"] >= since
        before = line["step"]
        for seen, count, nll in _buckets(line, source):
            if counts and nll is not None and math.isfinite(nll):
                tokens[seen] = tokens.get(seen, 0) + count
                nats[seen] = nats.get(seen, 0.0) + count * nll
    return [(seen, tokens[seen], nats[seen] / tokens[seen]) for seen in sorted(tokens)]


def _buckets(line: Mapping[str, Any], source: str) -> Iterator[tuple[int, int, float | None]]:
    if "sights" not in line:
        return
    where, last, entries = f"{source}, the line of step {line['step']}", -1, line["sights"]
    if not isinstance(entries, list):
        raise InputError(f"{where}: sights is {shown(entries)}; expected a list of buckets. {MEND}")
    for entry in entries:
        values: Any = entry if isinstance(entry, dict) else {}
        seen, tokens, nll = values.get("seen"), values.get("tokens"), values.get("nll", "missing")
        sound = is_whole(seen, 0) and is_whole(tokens, 1) and seen & (seen - 1) == 0
        if not sound or not is_number_or_none(nll):
            raise InputError(
                f"{where}: a bucket of sights is {shown(entry)}; expected seen (0, 1, 2, 4, 8, ...), tokens (from 1) "
                f"and nll (a number or null). {MEND}"
            )
        if seen <= last:
            raise InputError(f"{where}: in sights, {seen} comes after {last}; expected rising values of seen. {MEND}")
        last = seen
        yield seen, tokens, nll
