"""The output rows as MbPA sees them: logits and log-sum-exp by tiles, and rows that learn for a single prediction.

Shape suffixes: N activations, D features, V classes, C those of a tile, K neighbours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional.tiling.logits import extreme
from firstsight.functional.tiling.tiled import log_sum_exp
from firstsight.functional.tiling.tiles import LOG2_E, kind, slices
from firstsight.memory.store import sum_dtype

_HELD = {"cpu": 2**26, "cuda": 2**29}  # values of the neighbours' distributions that a step may hold at once


class Rows:
    """``weight`` and ``bias`` of an output layer, in the dtype that sums are held in.

    Raises:
        InputError: the layer has no ``weight`` of this width on this device.
    """

    def __init__(self, head: Any, hidden: Tensor) -> None:
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise InputError(
                f"{type(head).__name__} has no weight [num_classes, features]; give an output layer whose rows are one "
                "matrix, which those of an adaptive softmax are not."
            )
        if weight.shape[1] != hidden.shape[-1] or weight.device != hidden.device:
            raise InputError(
                f"hidden is {hidden.shape[-1]} wide on {hidden.device}, but the layer's weight is "
                f"{list(weight.shape)} on {weight.device}; give the activations that this layer is fed with."
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise InputError(f"bias is {list(bias.shape)}; expected [{len(weight)}], one value for each row of weight.")
        device = hidden.device.type
        own = sum_dtype(hidden)
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        asked = getattr(head, "compute_dtype", None) or autocast or own
        self.dtype: torch.dtype = own if asked == torch.float16 else asked
        """dtype of the large products, float16 excepted: squares of activations leave its range. Sums and exponentials
        stay in that of the activations, float32 at least."""
        self.weight_VD = weight.detach().to(own)
        self.bias_V = weight.new_zeros(len(weight), dtype=own) if bias is None else bias.detach().to(own)
        self.bias_V = self.bias_V - extreme(self.bias_V, own)  # no softmax changes
        self._bias2_V = self.bias_V * LOG2_E

    def state(self) -> Tensor:
        """The logits [V] at an activation of our own: they change when an optimizer, a write or a checkpoint does."""
        probe_D = torch.randn(self.weight_VD.shape[1], generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        return torch.addmv(self.bias_V, self.weight_VD, probe_D.to(self.weight_VD))

    def logits2(self, h2_ND: Tensor, c: slice) -> Tensor:
        """Logits [N, C] to base 2 of activations that were multiplied by log2(e)."""
        if self.dtype == h2_ND.dtype:
            return torch.addmm(self._bias2_V[c], h2_ND, self.weight_VD[c].t())
        product = h2_ND.to(self.dtype) @ self.weight_VD[c].to(self.dtype).t()
        return product.to(h2_ND.dtype).add_(self._bias2_V[c])

    def lse(self, h_ND: Tensor) -> Tensor:
        """log sum_v exp(logit), [N] in nats."""
        return log_sum_exp(h_ND, self.weight_VD, self.bias_V, self.dtype)


def adapted_alone(
    rows: Rows, h_D: Tensor, y: int, near: Sequence[Tensor], w_K: Tensor, lr: float, beta: float, steps: int
) -> Tensor:
    r"""NLL of one prediction under rows that took several steps on its neighbours, exact.

    .. math:: \theta' \leftarrow \theta' - \alpha \nabla \sum_k w_k \mathrm{nll}(h_k, y_k; \theta')
              - \beta (\theta' - \theta)

    Operations: 4 K V D a step, 2 K V D fewer for the last, of which only the logits at the prediction are formed and
    no rows; and 2 K V D more a step but the first where K V is too large to hold.

    Args:
        h_D: [D] the activation. y: its label.
        near: activations [K, D], labels [K] and log-sum-exp [K] of the neighbours.
        w_K: [K] their weights.
        lr, beta, steps: alpha, beta and the number of steps.
    """
    h_KD, y_K, lse_K = near
    theta_VD, base_VD = rows.weight_VD.clone(), rows.weight_VD
    dot_K = w_K * (h_KD @ h_D)
    tiles = list(slices(len(base_VD), max(256, _HELD[kind(h_D)] // max(1, len(y_K)))))
    z_V = rows.bias_V.clone()
    for step in range(steps):
        held = [torch.addmm(rows.bias_V[c], h_KD, theta_VD[c].t()) for c in tiles[:1] if len(tiles) == 1]
        if step:
            made = held or (torch.addmm(rows.bias_V[c], h_KD, theta_VD[c].t()) for c in tiles)
            lse_K = torch.stack([z_KC.logsumexp(1) for z_KC in made]).logsumexp(0)
        for c in tiles:
            z_KC = held[0] if held else torch.addmm(rows.bias_V[c], h_KD, theta_VD[c].t())
            p_KC = z_KC.sub_(lse_K[:, None]).exp_()
            inside_K = ((y_K >= c.start) & (y_K < c.stop)).nonzero()[:, 0]
            p_KC[inside_K, y_K[inside_K] - c.start] -= 1
            theta_VD[c].lerp_(base_VD[c], beta)
            if step == steps - 1:
                z_V[c] += theta_VD[c] @ h_D - lr * (dot_K @ p_KC)
            else:
                theta_VD[c].addmm_(p_KC.mul_(w_K[:, None]).t(), h_KD, alpha=-lr)
    return z_V.logsumexp(0) - z_V[y]
