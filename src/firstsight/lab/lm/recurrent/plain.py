"""torch's LSTM layer, and what each LSTM layer here has in common with it.

Shape suffixes: B sequences, S steps, H LSTM units, I width of a layer's input, G = 4H gates in the order input,
forget, cell, output.
"""

from functools import cache

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class PlainLSTM(nn.LSTM):
    """torch's own layer, in float32 where autocast asks for a bfloat16 that this CPU's library has no LSTM for."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        nn.init.zeros_(self.get_parameter("bias_hh_l0")).requires_grad_(False)
        start_bias(self.get_parameter("bias_ih_l0"))

    def forward(self, x_BSI: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """As ``nn.LSTM``."""
        device = x_BSI.device.type
        if not torch.is_autocast_enabled(device) or multiplies_low(device):
            return super().forward(x_BSI, state)
        with torch.autocast(device, enabled=False):
            return super().forward(x_BSI.to(self.get_parameter("bias_ih_l0").dtype), state)


def multiplies_low(device: str) -> bool:
    """Whether a device of this type multiplies in the low precision of autocast at a gain: not every CPU does."""
    return device != "cpu" or _multiplies_bf16()


@cache
def _multiplies_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def start_bias(bias_G: Tensor) -> None:
    """Start the forget gate's quarter at 1, the others at 0."""
    H = len(bias_G) // 4
    bias_G.zero_()
    bias_G[H : 2 * H] = 1
