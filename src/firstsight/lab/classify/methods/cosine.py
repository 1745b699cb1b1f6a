"""The cosine softmax: rows and activations count by their direction alone.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.functional import linear_cross_entropy
from firstsight.lab.classify.methods.rivals import Layer

START = 16.0  # of the scale: logits of +-16 can tell a thousand classes apart (our decision)


class CosineSoftmax(nn.Module):
    r"""log p(y | h) = s cos(theta_y, h) - log sum_v exp(s cos(theta_v, h)), with a learnt scale s > 0 (Qi et al. 2018).

    Attributes:
        weight: [V, D] parameter, started uniform in +-1/sqrt(D) as that of ``firstsight.Softmax``; the lengths of its
            rows say nothing.
        log_scale: parameter, the logarithm of s.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features).uniform_(-bound, bound))
        self.log_scale = nn.Parameter(torch.tensor(math.log(START)))

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean NLL in nats of [..., D] activations with targets [...]."""
        unit = F.normalize(hidden, dim=-1) * self.log_scale.exp()
        return linear_cross_entropy(unit, F.normalize(self.weight, dim=1), target)

    @torch.no_grad()
    def layer(self) -> Layer:
        """The linear layer, [V, D] and [V], that is the same on activations of length 1."""
        return F.normalize(self.weight, dim=1) * self.log_scale.exp(), self.weight.new_zeros(len(self.weight))

    @torch.no_grad()
    def add_rows(self, rows: Tensor) -> None:
        """Grow by classes with the directions [U, D]."""
        length = self.weight.norm(dim=1).mean()
        self.weight = nn.Parameter(torch.cat([self.weight, F.normalize(rows, dim=1) * length]))
