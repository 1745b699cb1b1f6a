"""The memory of one training step at the size of WikiText-103, the whole process, on the CPU (Linux).

The model of the paper in float32: V = 267,735, D = 512 tied, LSTM 2,048, full softmax, the write on with the rule that
is the default, clipping and RMSProp; 2,240 tokens a step. Two steps: the second has the optimizer's state. A minute:

    python benchmarks/step_memory.py
"""

import json
import sys
from pathlib import Path

import torch
from common import arguments, in_subprocess, print_and_save

from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_model, build_optimizer

V, BATCH, LENGTH = 267_735, 32, 70
LIMIT = 6 * 10**9
RESULT = "benchmarks/results/step_memory.json"


def status(field: str) -> int:
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def steps() -> dict[str, int]:
    """Resident memory as it grows: ``rss`` between the parts, ``peak`` of the process up to there."""
    found = {"rss_imported": status("VmRSS")}
    torch.manual_seed(0)
    config = recipe("paper").replace(rule="sight", T=100, gamma=0.02, batch=BATCH, length=LENGTH, accumulate=1)
    model = build_model(V, config).train()
    optimizer = build_optimizer(model, config)
    model.head.attach(optimizer)
    found["rss_built"] = status("VmRSS")
    for number in (1, 2):
        tokens_BS, target_BS = torch.randint(V, (2, BATCH, LENGTH))
        hidden_BSD, _ = model(tokens_BS)
        loss = model.head.loss(hidden_BSD, target_BS)
        found[f"peak_forward_{number}"] = status("VmHWM")
        loss.backward()
        found[f"peak_backward_{number}"] = status("VmHWM")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        found[f"peak_step_{number}"] = status("VmHWM")
        found[f"rss_step_{number}"] = status("VmRSS")
    return found


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--steps":
        print(json.dumps(steps()))
        return
    options = arguments(__doc__ or "", RESULT)
    found = json.loads(in_subprocess(__file__, "--steps"))
    peak = found["peak_step_2"]
    weight = 4 * V * 512
    sizes = {"V": V, "D": 512, "tokens": BATCH * LENGTH, "weight_bytes": weight}
    verdict = {"peak_bytes": peak, "limit_bytes": LIMIT, "below": peak < LIMIT, "peak_over_weight": peak / weight}
    print_and_save(options.out, {"sizes": sizes, **verdict, "resident_bytes": found})


if __name__ == "__main__":
    main()
