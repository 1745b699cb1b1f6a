"""An LSTM layer with layer norm inside its gates, its backward pass written out by hand.

Shape suffixes: B sequences, S steps, H LSTM units, I width of a layer's input, G = 4H gates in the order input,
forget, cell, output; 1 is a kept dimension.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.lab.lm.recurrent.plain import State, multiplies_low, start_bias

_EPS = 1e-5  # torch's default
_norm, _norm_backward = torch.native_layer_norm, torch.ops.aten.native_layer_norm_backward


class LayerNormLSTM(nn.Module):
    r"""One LSTM layer with layer norm inside its gates (Ba et al. 2016, supplement).

    .. math::
        (i, f, g, o) &= \mathrm{LN}(W_{ih} x) + \mathrm{LN}(W_{hh} h) + b \\
        c &\leftarrow \sigma(f) c + \sigma(i) \tanh(g), \qquad h \leftarrow \sigma(o) \tanh(\mathrm{LN}(c))

    Each LN has a gain that starts at 1 and runs over its whole vector, the four gates together. The first two have
    no bias of their own, which b would only repeat (our decision). Called and named like a one-layer
    ``nn.LSTM(batch_first=True)``.

    What does not wait for the step before is done for all steps at once: the products of the inputs, and the gradients
    of all weights. The loop over time is left with one product a step, forward and backward. No second derivatives: to
    ask for one raises an error.

    Under autocast the products are in the low precision as those of ``nn.LSTM`` are (on a CPU that multiplies it in
    hardware), while norms, gates, state and output stay in the weights'. The gradient of W_hh is one product over all
    steps, whose sum is kept in float32; summed up step by step in bfloat16 it would be off by 1% after 70 steps.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        H, G = hidden_size, 4 * hidden_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(G, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(G, H))
        self.bias_ih_l0 = nn.Parameter(torch.empty(G))
        self.gain_ih_l0 = nn.Parameter(torch.ones(G))
        self.gain_hh_l0 = nn.Parameter(torch.ones(G))
        self.gain_c_l0 = nn.Parameter(torch.ones(H))
        self.bias_c_l0 = nn.Parameter(torch.zeros(H))
        for weight in (self.weight_ih_l0, self.weight_hh_l0):
            nn.init.uniform_(weight, -1 / math.sqrt(H), 1 / math.sqrt(H))
        start_bias(self.bias_ih_l0)

    def forward(self, x_BSI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the layer: x [B, S, I] and (h, c), each [1, B, H], to y [B, S, H] and the last (h, c).

        Raises:
            InputError: x is not as above, or S is 0.
        """
        if x_BSI.ndim != 3 or not x_BSI.shape[1]:
            raise InputError(f"x is {list(x_BSI.shape)}; expected [B, S, I], with one step at least.")
        dtype, device = self.gain_ih_l0.dtype, x_BSI.device.type
        low = torch.is_autocast_enabled(device) and multiplies_low(device)
        factor = torch.get_autocast_dtype(device) if low else dtype
        h_BH = c_BH = self.gain_c_l0.new_zeros(len(x_BSI), self.hidden_size)
        if state is not None:
            h_BH, c_BH = state[0][0].to(dtype), state[1][0].to(dtype)
        with torch.autocast(device, enabled=False):
            in_SBG = F.linear(x_BSI.transpose(0, 1).to(factor), self.weight_ih_l0.to(factor)).to(dtype)
            # tanh(x) = 2 sigmoid(2x) - 1 is faster on a CPU, and makes one operation of all gates: its x come doubled.
            times_G = self.gain_c_l0.new_tensor([1.0, 1.0, 2.0, 1.0]).repeat_interleave(self.hidden_size)
            in_SBG = F.layer_norm(in_SBG, in_SBG.shape[2:], self.gain_ih_l0 * times_G, self.bias_ih_l0 * times_G, _EPS)
            norms = self.gain_hh_l0 * times_G, 2 * self.gain_c_l0, 2 * self.bias_c_l0
            given = (in_SBG, h_BH, c_BH, self.weight_hh_l0.to(factor), *norms)
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
                y_SBH, c_BH = _Loop.apply(*given)  # type: ignore[no-untyped-call]
            else:
                (y_SBH, c_BH, *_), _ = _forward(given, keep=False)
        return y_SBH.transpose(0, 1), (y_SBH[-1:], c_BH[None])


def _forward(given: tuple[Tensor, ...], keep: bool) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    """The loop over time: y [S, B, H], the last c [B, H], and what the backward pass needs if ``keep``.

    Of the last, the norms' means and deviations come as they are made, step by step.
    """
    in_SBG, h_BH, c_BH, weight_GH, gain_hh_G, gain_c_H, bias_c_H = given
    S, B, G = in_SBG.shape
    H, kept = G // 4, S if keep else 1
    y_SBH = in_SBG.new_empty(S, B, H)
    from_h_SBG, gates_S4BH = in_SBG.new_empty(kept, B, G), in_SBG.new_empty(kept, 4, B, H)
    c_SBH, content_SBH = in_SBG.new_empty(kept, B, H), in_SBG.new_empty(kept, B, H)
    buffers = (from_h_SBG, gates_S4BH, *gates_S4BH.unbind(1), c_SBH, content_SBH)
    if not keep:  # what nobody looks at again is overwritten
        buffers = tuple(x.expand(S, *x.shape[1:]) for x in buffers)
    multiply, minus_one, stats = _multiplication(weight_GH.t().contiguous()), -torch.ones_like(c_BH), []
    for step in _steps(in_SBG.view(S, B, 4, H).transpose(1, 2), y_SBH, *buffers):
        in_4BH, y_BH, from_h_BG, gates_4BH, i, f, g, o, next_c_BH, content_BH = step
        multiply(h_BH, from_h_BG)
        normed_BG, *stat_h = _norm(from_h_BG, (G,), gain_hh_G, None, _EPS)
        torch.add(in_4BH, normed_BG.view(B, 4, H).transpose(0, 1), out=gates_4BH).sigmoid_()
        torch.add(minus_one, g, alpha=2, out=g)
        c_BH = torch.mul(f, c_BH, out=next_c_BH).addcmul_(i, g)
        normed_BH, *stat_c = _norm(c_BH, (H,), gain_c_H, bias_c_H, _EPS)
        torch.add(minus_one, normed_BH.sigmoid_(), alpha=2, out=content_BH)
        h_BH = torch.mul(o, content_BH, out=y_BH)
        if keep:
            stats.append((*stat_h, *stat_c))
    return (y_SBH, c_BH.clone(), from_h_SBG, gates_S4BH, c_SBH, content_SBH), stats


def _steps(*tensors: Tensor, back: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Views of every step of tensors [S, ...], first to last or ``back``; made in blocks, so that few live at a time.

    Views of all steps at once make Python's garbage collector look at everything, for a tenth of the time.
    """
    for block in _ordered(zip(*(torch.split(tensor, 8) for tensor in tensors), strict=True), back):
        yield from _ordered(zip(*(tensor.unbind(0) for tensor in block), strict=True), back)


def _ordered(items: Iterable[Any], back: bool) -> Iterable[Any]:
    return reversed(list(items)) if back else items


class _Loop(torch.autograd.Function):
    """``_forward`` with its gradients: (in, h, c, weights) to (y, last c)."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        (y_SBH, c_BH, *kept), ctx.stats = _forward(given, keep=True)
        ctx.save_for_backward(*given[1:6], y_SBH, *kept)
        return y_SBH, c_BH

    @staticmethod
    def backward(ctx: Any, dy_SBH: Tensor, dc_BH: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            raise InputError("create_graph is True, but the layer-norm LSTM has no second derivatives. Leave it out.")
        h_BH, c_BH, weight_GH, gain_hh_G, gain_c_H, y_SBH, from_h_SBG, gates_S4BH, *kept = ctx.saved_tensors
        c_SBH, content_SBH = kept
        G, H = weight_GH.shape
        multiply = _multiplication(weight_GH)
        dgates_SBG, dnormed_SBH = _factors(gates_S4BH, torch.cat([c_BH[None], c_SBH[:-1]]), content_SBH)
        dgates_SB4H = dgates_SBG.view(*y_SBH.shape[:2], 4, H)
        dh_BH, dc_BH, to_input = torch.empty_like(h_BH), dc_BH.clone(), [True, False, False]
        dfrom_h_BG = torch.zeros_like(from_h_SBG[0])
        per_step = (dy_SBH, dgates_SB4H[:, :, 3], dnormed_SBH, c_SBH, dgates_SB4H[:, :, :3], gates_S4BH[:, 1])
        steps = _steps(*per_step, dgates_SBG, from_h_SBG, back=True)
        for step, stat in zip(steps, reversed(ctx.stats), strict=True):
            dy_BH, do_BH, dnormed_BH, after_c_BH, difg_B3H, f, dgates_BG, from_h_BG = step
            multiply(dfrom_h_BG, dh_BH, dy_BH)
            do_BH *= dh_BH
            dnormed_BH *= dh_BH
            dc_BH += _norm_backward(dnormed_BH, after_c_BH, (H,), *stat[2:], gain_c_H, None, to_input)[0]
            difg_B3H *= dc_BH[:, None]
            dc_BH *= f
            dfrom_h_BG = _norm_backward(dgates_BG, from_h_BG, (G,), *stat[:2], gain_hh_G, None, to_input)[0]
        multiply(dfrom_h_BG, dh_BH)
        stats = [torch.stack(one) for one in zip(*ctx.stats, strict=True)]
        hh = _norm_backward(dgates_SBG, from_h_SBG, (G,), *stats[:2], gain_hh_G, None, [True, True, False])
        cc = _norm_backward(dnormed_SBH, c_SBH, (H,), *stats[2:], gain_c_H, gain_c_H, [False, True, True])
        before_h_NH = torch.cat([h_BH[None], y_SBH[:-1]]).view(-1, H)
        dweight_GH = hh[0].view(-1, G).t().to(weight_GH.dtype) @ before_h_NH.to(weight_GH.dtype)
        return dgates_SBG, dh_BH, dc_BH, dweight_GH, hh[1], cc[1], cc[2]


def _factors(gates_S4BH: Tensor, before_c_SBH: Tensor, content_SBH: Tensor) -> tuple[Tensor, Tensor]:
    """What turns the gradient of c into those of the gates i, f, g and that of h into those of o and of LN(c).

    Gates before their sigmoid and tanh, that is; for all steps at once: [S, B, 4H] and [S, B, H].
    """
    i, f, g, o = gates_S4BH.unbind(1)
    factors_SBG = gates_S4BH.new_empty(*content_SBH.shape[:2], 4 * content_SBH.shape[2])
    to_i, to_f, to_g, to_o = factors_SBG.chunk(4, dim=2)
    sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    sigmoid_backward(g, i, grad_input=to_i)
    sigmoid_backward(before_c_SBH, f, grad_input=to_f)
    tanh_backward(i, g, grad_input=to_g).mul_(0.5)  # of half of what was made: see ``forward``
    sigmoid_backward(content_SBH, o, grad_input=to_o)
    return factors_SBG, tanh_backward(o, content_SBH).mul_(0.5)


def _multiplication(weight_XY: Tensor) -> Callable[..., object]:
    """What writes ``x @ weight`` (plus a third argument) into its second, in the precision of ``weight``.

    Fast for few rows of x.
    """
    if weight_XY.is_cpu and weight_XY.dtype == torch.float32 and weight_XY.numel() >= 2**20:
        # A CPU's threads share the rows of so large a weight better than the few of x: half the time of x @ weight for
        # 4,096 x 1,024, 16 rows and two threads. On one, or for small weights, it is no faster.
        weight_YX = weight_XY.t().contiguous()
        return lambda x_BX, out_BY, plus=0: torch.add((weight_YX @ x_BX.t()).t(), plus, out=out_BY)
    if weight_XY.dtype in (torch.bfloat16, torch.float16):
        return lambda x_BX, out_BY, plus=0: torch.add(x_BX.to(weight_XY.dtype) @ weight_XY, plus, out=out_BY)
    return lambda x_BX, out_BY, plus=None: (
        torch.mm(x_BX, weight_XY, out=out_BY) if plus is None else torch.addmm(plus, x_BX, weight_XY, out=out_BY)
    )
