"""The classifier of a curriculum: convnet and head.

Shapes: n classes introduced so far, B drawings, S pixels a side, D width of the head.
"""

import torch
from torch import Tensor, nn

from firstsight.lab.curriculum.convnet import ConvNet
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.runs.head import make_head
from firstsight.lab.runs.optimizer import make_optimizer

CHUNK = 50  # test drawings embedded at a time: of more the activations do not fit a core's cache


class Classifier(nn.Module):
    """A ``ConvNet`` for S x S pixels and a head for the classes of the start; torch's generator decides its weights."""

    def __init__(self, size: int, settings: Curriculum) -> None:
        super().__init__()
        self.body = ConvNet(size, settings.network)
        self.head = make_head(settings, self.body.out_features, settings.start)

    def forward(self, images_BSS: Tensor) -> Tensor:
        """Logits [B, n]."""
        logits: Tensor = self.head(self.body(images_BSS))
        return logits

    def loss(self, images_BSS: Tensor, label_B: Tensor) -> Tensor:
        """Mean NLL of a training batch, in nats."""
        return self.head.loss(self.body(images_BSS), label_B)

    @torch.no_grad()
    def right(self, images_BSS: Tensor, label_B: Tensor, classes: int | None = None) -> Tensor:
        """Whether each drawing is recognised, without dropout, among all n classes or the first so many: bool [B]."""
        self.eval()
        logits = [self(part)[:, :classes] for part in torch.split(images_BSS, CHUNK)]
        self.train()
        return torch.cat(logits).argmax(1) == label_B


def build_optimizer(model: Classifier, settings: Curriculum) -> torch.optim.Optimizer:
    """The optimizer of these settings for all of the model that trains."""
    return make_optimizer(
        model.parameters(),
        settings.optimizer,
        settings.rate,
        smoothing=settings.smoothing,
        accumulator=settings.accumulator,
    )
