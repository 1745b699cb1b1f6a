"""Moments of a model's activations, and of the rows that they were to find, measured on a text.

Shape suffixes: S tokens of a segment, D features.
"""

import numpy as np
import torch

from firstsight.heads.kept.moments import Moments
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import Text, reading


def measure_moments(model: LanguageModel, tokens: np.ndarray, *, eos_id: int) -> Moments:
    """Moments of the activations over a text, and of the rows of their targets, as the rules of the write use them."""
    weight = model.rows
    D = weight.shape[1]
    moments = torch.zeros(1 + 2 * D, 1 + D, dtype=torch.float64, device=weight.device)  # see Moments
    text = Text(model, tokens, eos_id)
    with reading(model):
        for segment in text:
            h_SD = segment.hidden[0]
            h_SD = torch.cat([h_SD.new_ones(len(h_SD), 1), h_SD], 1).double()
            both_S2D = torch.cat([h_SD, weight.detach()[segment.target[0]].double()], 1)
            moments += both_S2D.t() @ h_SD / len(tokens)
    return Moments(moments.to(torch.promote_types(weight.dtype, torch.float32)))
