"""The activations of a text: what predicts each of its tokens.

Shape suffixes: N tokens of the text, S of a segment, B sequences (here 1), D features.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstsight.heads.rules import Moments
from firstsight.lab.lm.evaluation import BLOCK, check_tokens, evaluating
from firstsight.lab.lm.lstm import LanguageModel


class Segment(NamedTuple):
    """A part of a text and the activations that predict it."""

    first: int
    """position of its first token in the text"""
    fresh: bool
    """whether a document begins with it"""
    hidden: Tensor
    """[S, D]"""


def read_segments(
    model: LanguageModel, tokens: np.ndarray, *, eos_id: int, block: int = 1, starts: Iterable[int] = ()
) -> Iterator[Segment]:
    """The activations of a text in one stream, in segments of whole blocks that end where a document begins.

    To be called with the model in evaluation mode and gradients off.
    """
    size = max(1, BLOCK // block) * block
    borders = sorted({0, len(tokens), *(int(start) for start in starts if 0 < start < len(tokens))})
    state, before, device = None, eos_id, model.embedding_weight.device
    for start, stop in pairwise(borders):
        for first in range(start, stop, size):
            targets = tokens[first : min(first + size, stop)].astype(np.int64)
            inputs = np.concatenate([[before], targets[:-1]])
            before = int(targets[-1])
            hidden_BSD, state = model(torch.from_numpy(inputs)[None].to(device), state)
            yield Segment(first, first == start and first > 0, hidden_BSD[0])


def measure_moments(model: LanguageModel, tokens: np.ndarray, *, eos_id: int) -> Moments:
    """Mean [D] and second moment [D, D] of the activations over a text, as the rules of the write use them.

    Raises:
        InputError: see ``adapted_nll``.
    """
    check_tokens(tokens, len(model.embedding_weight), 1, None)
    weight = model.head.weight
    D = weight.shape[1]
    moments = torch.zeros(1 + D, 1 + D, dtype=torch.float64, device=weight.device)  # the mean of (1, h)(1, h)^T
    with evaluating(model), torch.inference_mode():
        for segment in read_segments(model, tokens, eos_id=eos_id):
            one_S1 = segment.hidden.new_ones(len(segment.hidden), 1)
            h_SD = torch.cat([one_S1, segment.hidden], 1).double()
            moments += h_SD.t() @ h_SD / len(tokens)
    return Moments(moments.to(torch.promote_types(weight.dtype, torch.float32)))
