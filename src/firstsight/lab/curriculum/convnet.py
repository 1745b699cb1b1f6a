"""The convolutional embedding of Omniglot's drawings.

Shape suffixes: B images of S x S pixels, C channels, D width of the head's input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.lab.system.settings import Settings

BLOCKS = 4


@dataclass(frozen=True)
class Network(Settings):
    """The convnet's settings. The paper names dropout 0.2 alone; the others are our decisions."""

    channels: int = 64
    """C of every convolution"""
    dropout: float = 0.2
    """dropout on the head's input"""
    activation: Literal["relu", "tanh", "none"] = "relu"
    """what ends the last block; the other blocks end with ReLU"""
    unit: bool = False
    """divide each embedding by its length"""
    scale: float = 1.0
    """multiply each embedding, after ``unit``"""
    norm_momentum: float = 0.1
    """share of the newest batch in the running statistics of batch norm"""

    def __post_init__(self) -> None:
        """Check every value: names the setting, what was given and what is expected."""
        super().__post_init__()
        self._require("channels", self.channels >= 1, "1 or more")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self._require("scale", self.scale > 0, "above 0")
        self._require("norm_momentum", 0 < self.norm_momentum <= 1, "in (0, 1]")


class ConvNet(nn.Module):
    r"""Four blocks that halve an image each, flattened: 28 x 28 pixels become 64 numbers.

    .. math::
        x_0 = \mathrm{image} / 255, \qquad x_{k+1} = \max(0, \mathrm{pool}(\mathrm{BN}(W_k * x_k))), \qquad
        h = \mathrm{dropout}(s\, x_4)

    with 3 x 3 convolutions that keep the size, batch norm, and 2 x 2 max pooling; s is ``scale``, over
    :math:`|x_4|` with ``unit``.

    The dropout is the paper's, by a secondary source. Our decisions, for the paper does not describe its network:

    - The four blocks are those that Omniglot's few-shot literature shares (Vinyals et al. 2016), so that the results
      are about the head and not about a network of our own. Convolutions have no bias: batch norm would take it off.
    - ReLU comes after the pooling. As it never falls the result is the same, at a quarter of its cost.
    - Weights start as torch starts them. In evaluation batch norm uses its running statistics.
    - Weights and images lie channels last, which makes the step about twice as fast on a CPU.
    - In evaluation without gradient, batch norm is multiplied into the convolution: one pass over the images less,
      and sums in another order.

    Args:
        size: S, 16 or more. Where a block's input is odd, its last row and column are not pooled.
        network: the settings.

    Attributes:
        out_features: D = channels * (S // 16)^2.
    """

    def __init__(self, size: int = 28, network: Network | None = None) -> None:
        super().__init__()
        self.network = network = network or Network()
        if size < 2**BLOCKS:
            raise InputError(f"the images are {size} x {size}; expected 16 x 16 or more, for they are halved 4 times.")
        self.size = size
        self.out_features = network.channels * (size // 2**BLOCKS) ** 2
        widths = [1, *[network.channels] * BLOCKS]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, momentum=network.norm_momentum) for width in widths[1:])
        self.dropout = nn.Dropout(network.dropout)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images_BSS: Tensor) -> Tensor:
        """Embed drawings [B, S, S] uint8, paper 0 and ink up to 255, as [B, D] float."""
        if images_BSS.shape[1:] != (self.size, self.size) or images_BSS.dtype != torch.uint8:
            raise InputError(
                f"the images are {list(images_BSS.shape)} {images_BSS.dtype}; expected [B, {self.size}, {self.size}] "
                "torch.uint8. Resize them, or make the network for their size."
            )
        dtype = next(self.parameters()).dtype
        x = (images_BSS.to(dtype) / 255)[:, None].contiguous(memory_format=torch.channels_last)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.max_pool2d(self._normed(convolution, norm, x), 2)
            x = _ACTIVATIONS[self.network.activation if i == BLOCKS - 1 else "relu"](x)
        x_BD = x.flatten(1)
        if self.network.unit:
            x_BD = F.normalize(x_BD)
        if self.network.scale != 1:
            x_BD = x_BD * self.network.scale
        dropped: Tensor = self.dropout(x_BD)
        return dropped

    def _normed(self, convolution: Any, norm: Any, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            normed: Tensor = norm(convolution(x))
            return normed
        factor_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        kernels = convolution.weight * factor_C[:, None, None, None]
        return F.conv2d(x, kernels, norm.bias - norm.running_mean * factor_C, padding=1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "none": lambda x: x}
