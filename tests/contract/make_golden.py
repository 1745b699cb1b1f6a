"""Write the golden files of a new layout of state_dict: python tests/contract/make_golden.py 2 [HEAD ...]

Old ones stay as they are: that tomorrow's code loads them is what they are for.
"""

import json
import sys
from pathlib import Path

import torch
from contract_heads import HEADS, D, V, batch, drawn, rows, step

GOLDEN = Path(__file__).parent / "golden"


def values(head: torch.nn.Module) -> dict:
    """What a head says of a fixed batch, before and after a step of plain SGD."""
    h, y = batch(seed=99)
    found = {"log_prob": head.log_prob(h).tolist(), "nll": head.nll(h, y).tolist(), "loss": head.loss(h, y).item()}
    if hasattr(head, "counts"):
        found["counts"] = head.counts.tolist()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    step(head, optimizer, seed=98)
    found["weight after a step"] = rows(head).tolist()
    return found


def write(layout: str, only: list[str]) -> None:
    """One pair of files for each head, or of those named, with a bias and without."""
    torch.manual_seed(0)
    for name, make in HEADS.items():
        for bias in (True, False):
            stem = GOLDEN / f"{name}-{layout}{'' if bias else '-nobias'}"
            if only and name not in only:
                continue
            if stem.with_suffix(".pt").exists():
                sys.exit(f"{stem}.pt exists, and a golden file is never written again; give the next number")
            head = drawn(make(D, V, bias=bias, dtype=torch.float64))
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
            handle = head.attach(optimizer)
            for seed in range(5):
                step(head, optimizer, seed)
            handle.remove()
            torch.save(head.state_dict(), stem.with_suffix(".pt"))
            told = {"head": name, "in_features": D, "num_classes": V, "bias": bias}
            told["settings"] = {"rule": getattr(head, "first", head).rule} if hasattr(head, "counts") else {}
            told["values"] = values(head)
            stem.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(sys.argv[1], sys.argv[2:])
