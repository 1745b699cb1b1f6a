"""Mean and covariance of a model's activations, measured on a text.

Shape suffixes: S tokens of a segment, D features.
"""

import numpy as np
import torch

from firstsight.heads.kept.moments import Moments
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Text, reading


def measure_moments(model: LanguageModel, tokens: np.ndarray, *, eos_id: int) -> Moments:
    """Mean [D] and second moment [D, D] of the activations over a text, as the rules of the write use them."""
    weight = model.head.weight
    D = weight.shape[1]
    moments = torch.zeros(1 + D, 1 + D, dtype=torch.float64, device=weight.device)  # the mean of (1, h)(1, h)^T
    text = Text(model, tokens, eos_id)
    with reading(model):
        for segment in text:
            h_SD = segment.hidden[0]
            h_SD = torch.cat([h_SD.new_ones(len(h_SD), 1), h_SD], 1).double()
            moments += h_SD.t() @ h_SD / len(tokens)
    return Moments(moments.to(torch.promote_types(weight.dtype, torch.float32)))
