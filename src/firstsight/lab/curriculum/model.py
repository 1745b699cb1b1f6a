"""The classifier of a curriculum: convnet and head.

Shapes: n classes introduced so far, B drawings, S pixels a side, D width of the head.
"""

import torch
from torch import Tensor, nn

from firstsight.heads import HebbianSoftmax, Softmax
from firstsight.lab.curriculum.convnet import ConvNet
from firstsight.lab.curriculum.settings import Curriculum

CHUNK = 50  # test drawings embedded at a time: of more the activations do not fit a core's cache


class Classifier(nn.Module):
    """A ``ConvNet`` and a head for the classes of the start; torch's generator decides its weights.

    Heads of all kinds take the same numbers from the generator, so that those of one seed start alike.

    Args:
        size: S.
        settings: the model's settings and ``start``.

    Raises:
        InputError: see ``ConvNet``.
    """

    def __init__(self, size: int, settings: Curriculum) -> None:
        super().__init__()
        self.body = ConvNet(size, settings.network)
        width, classes, bias = self.body.out_features, settings.start, settings.bias
        self.head: Softmax
        if settings.head == "hebbian":
            self.head = HebbianSoftmax(
                width,
                classes,
                T=settings.T,
                gamma=settings.gamma,
                bias=bias,
                rule=settings.rule,
                prior_count=settings.prior_count,
            )
        else:
            self.head = Softmax(width, classes, bias)

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


def make_optimizer(model: nn.Module, settings: Curriculum) -> torch.optim.Optimizer:
    """The optimizer of these settings; everything they do not name is torch's default."""
    parameters, rate = model.parameters(), settings.rate
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=settings.smoothing)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate)
    return torch.optim.Adagrad(parameters, lr=rate, initial_accumulator_value=settings.accumulator)
