"""The layer-norm LSTM against torch's LSTM, and against a loop over its equations under autograd.

Forward and backward of one layer at the recipes' shape, 16 sequences of 70, as wide as its input; in float32 and under
bfloat16 autocast. Run alone on the machine: on cores that others use too, the many short products wait for each other.

    python benchmarks/layer_norm_lstm.py
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from common import arguments, paired, print_and_save, ratios
from torch import Tensor

from firstsight.lab.lm.recurrent.layer_norm import LayerNormLSTM
from firstsight.lab.lm.recurrent.plain import PlainLSTM

RESULT = "benchmarks/results/layer_norm_lstm.json"
SHAPE = {"sequences": 16, "steps": 70}


def loop(layer: LayerNormLSTM, x_BSI: Tensor) -> Tensor:
    """y [B, S, H] by the equations, a step at a time."""
    H, G = layer.hidden_size, 4 * layer.hidden_size
    h_BH = c_BH = x_BSI.new_zeros(len(x_BSI), H)
    in_BSG = F.layer_norm(F.linear(x_BSI, layer.weight_ih_l0), (G,), layer.gain_ih_l0, layer.bias_ih_l0)
    y = []
    for in_BG in in_BSG.unbind(1):
        gates_BG = in_BG + F.layer_norm(F.linear(h_BH, layer.weight_hh_l0), (G,), layer.gain_hh_l0)
        i, f, g, o = gates_BG.chunk(4, dim=-1)
        c_BH = f.sigmoid() * c_BH + i.sigmoid() * g.tanh()
        h_BH = o.sigmoid() * F.layer_norm(c_BH, (H,), layer.gain_c_l0, layer.bias_c_l0).tanh()
        y.append(h_BH)
    return torch.stack(y, dim=1)


def make_step(kind: str, units: int, low: bool) -> Callable[[], None]:
    """Forward and backward on one batch; ``kind`` is "norm", "loop" or "torch"."""
    torch.manual_seed(0)
    layer = PlainLSTM(units, units) if kind == "torch" else LayerNormLSTM(units, units)
    read = partial(loop, layer) if isinstance(layer, LayerNormLSTM) and kind == "loop" else lambda x: layer(x)[0]
    x_BSI = torch.randn(SHAPE["sequences"], SHAPE["steps"], units, requires_grad=True)
    weight_BSH = torch.randn_like(x_BSI)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y_BSH = read(x_BSI)
        (y_BSH * weight_BSH).sum().backward()

    return step


def main() -> None:
    options = arguments(__doc__ or "", RESULT, rounds=25)
    found: dict[str, object] = {**SHAPE, "rounds": options.rounds}
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        for units in (192, 1024):
            for precision in ("fp32", "bf16"):
                kinds = ("norm", "loop", "torch") if precision == "fp32" else ("norm", "torch")
                steps = {kind: make_step(kind, units, precision == "bf16") for kind in kinds}
                seconds = paired(steps, options.rounds if units < 512 else max(4, options.rounds // 3))
                found[f"{precision}, {units} units, {threads} threads"] = {
                    "over_torch": ratios(seconds, "norm", "torch"),
                    **({"loop_over_this": ratios(seconds, "loop", "norm")} if "loop" in seconds else {}),
                    "best_seconds": {kind: min(times) for kind, times in seconds.items()},
                }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
