"""A trained head meets new classes: how many of their examples it finds, and how many of the old ones' it loses.

Frozen sentence vectors of ICD-10 texts (../shared/data/icd). A head is trained on 809 classes as a user would, then
``add_classes`` and ``write``, with 1 to 10 examples of each of 80 classes. Splits 0 to 2 are for development, the
others for a judgement that nothing was chosen on. One head takes about half a minute.
"""

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save

from firstsight import HebbianSoftmax
from firstsight.lab.system.progress import say

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "icd"
EPOCHS, BATCH, KEPT, DRAWS = 12, 256, 5, 2000  # KEPT: of a new class's texts, so many may be shown, the rest are asked


def trained(h: torch.Tensor, y: torch.Tensor, rule: str, rate: float) -> HebbianSoftmax:
    """A head as a user would train it."""
    torch.manual_seed(0)
    head = HebbianSoftmax(h.shape[1], int(y.max()) + 1, T=100, gamma=0.02, rule=rule)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    with_write = head.attach(optimizer)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            head.loss(h[batch], y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with_write.remove()
    return head.eval()


def right(head: HebbianSoftmax, h: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Whether each is found."""
    return (head.topk(h, 1).indices[:, 0] == y).numpy()


def _share(value: np.ndarray) -> Any:
    return np.round(value, 4).tolist()


def macro(found: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share that is found of each class."""
    return np.array([found[y == c].mean() for c in np.unique(y)])


def measured(
    head: HebbianSoftmax, split: dict[str, Any], h: torch.Tensor, y: np.ndarray, index: dict[int, int], examples: int
) -> dict[str, Any]:
    """One line of the result."""
    test = torch.tensor([row for row in split["test"] if int(y[row]) in index])
    y_test, old = torch.tensor([index[int(c)] for c in y[test]]), head.num_classes
    before = right(head, h[test], y_test).mean()
    head = copy.deepcopy(head)
    head.add_classes(len(split["new_classes"]))
    rows = split["new"]
    shown = torch.tensor([row for own in rows for row in own[:examples]])
    head.write(h[shown], torch.arange(old, head.num_classes).repeat_interleave(examples))
    asked = [own[KEPT:] for own in rows]
    y_new = torch.arange(old, head.num_classes).repeat_interleave(torch.tensor([len(own) for own in asked]))
    found = right(head, h[torch.tensor([row for own in asked for row in own])], y_new)
    of_class, sizes = macro(found, y_new.numpy()), np.array([len(own) for own in asked])
    drawn = np.random.default_rng(0).integers(0, len(sizes), (DRAWS, len(sizes)))
    micro = (of_class * sizes)[drawn].sum(1) / sizes[drawn].sum(1)
    return {
        "examples": examples,
        "micro": _share(found.mean()),
        "micro_95": _share(np.quantile(micro, [0.025, 0.975])),
        "macro": _share(of_class.mean()),
        "macro_95": _share(np.quantile(of_class[drawn].mean(1), [0.025, 0.975])),
        "old_before": _share(before),
        "old_lost": _share(before - right(head, h[test], y_test).mean()),
    }


def main() -> int:
    """Train, show, ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("first_sight.json"), help="JSON file to write")
    parser.add_argument("--rules", nargs="+", default=["sight"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.1, 0.03], help="of Adam")
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2])
    told = parser.parse_args()
    archive, splits = np.load(DATA / "icd-minilm.npz"), json.loads((DATA / "splits.json").read_text())
    h, y, lines = torch.from_numpy(archive["h"]).float(), archive["y"].astype(int), []
    for number in told.splits:
        split = splits[number]
        index = {c: i for i, c in enumerate(np.unique(y[split["train"]]))}
        for rule in told.rules:
            for rate in told.rates:
                target = torch.tensor([index[c] for c in y[split["train"]]])
                head = trained(h[torch.tensor(split["train"])], target, rule, rate)
                for examples in (1, 2, KEPT):
                    line = {"split": number, "rule": rule, "rate": rate}
                    line |= measured(head, split, h, y, index, examples)
                    lines.append(line)
                    say(", ".join(f"{k} {v}" for k, v in lines[-1].items()))
    save(told.out, {"classes": 80, "epochs": EPOCHS, "batch": BATCH, "lines": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
