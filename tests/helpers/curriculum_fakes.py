"""Made-up results in the form of ``run_curriculum``'s: what is counted from them is tested without training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firstsight.lab.curriculum import Curriculum
from firstsight.lab.curriculum.binding import PRESENTATIONS

MILESTONES = (100, 200, 400)
FACTS = {"classes": 60, "drawings": 20, "size": 16, "sha256": "0" * 64}


def made_up(records: Sequence[Mapping[str, Any]], start: int = 30, **more: Any) -> dict[str, Any]:
    """A result with these records; ``steps_to`` and the end follow from the additions among them."""
    additions = [(r["step"], r["classes"]) for r in records if r["event"] == "addition"]
    reached = {n: [step for step, classes in additions if classes >= n] for n in MILESTONES}
    found = {
        "settings": Curriculum(start=start).to_dict(),
        "images": FACTS,
        "steps": max((r["step"] for r in records), default=0),
        "classes": max((classes for _, classes in additions), default=start),
        "reason": "steps",
        "steps_to": {str(n): 0 if start >= n else min(steps, default=None) for n, steps in reached.items()},
        "binding": {str(k): {"new_classes": 0, "accuracy": None} for k in PRESENTATIONS},
        "final": {"accuracy": 0.75, "among_themselves": 0.875, "accuracy_all": 0.5},
        "seconds": {"train": 2.0, "check": 1.0, "measure": 0.5},
        "version": "0",
        "torch_version": "2",
        "git_commit": None,
        "machine": "a machine, 2 cores",
        "command": "firstsight figure 10",
        "records": [{"seconds": 0.0, **record} for record in records],
    }
    return found | more


def addition(step: int, classes: int) -> dict[str, Any]:
    return {"event": "addition", "step": step, "classes": classes, "accuracy": 0.6}


def bound(first: int, presentations: int, accuracy: float, step: int = 9) -> dict[str, Any]:
    record = {"event": "bound", "step": step, "first": first, "presentations": presentations}
    return record | {"accuracy": accuracy, "classes": float(first)}


def oldest(classes: int, accuracy: float, among_themselves: float = 0.9, step: int = 9) -> dict[str, Any]:
    record = {"event": "oldest", "step": step, "classes": classes}
    return record | {"accuracy": accuracy, "among_themselves": among_themselves}


def learner(seed: int, pace: int, best: float = 0.9, steps: int = 500, **more: Any) -> dict[str, Any]:
    """A run that adds 5 classes about every ``pace`` steps, a little otherwise with each seed."""
    rng = np.random.default_rng([seed, pace])
    records, classes, step = [oldest(30, float(rng.uniform(0.5, best)))], 30, 0
    while classes < 450:
        step += int(rng.integers(pace // 2, 2 * pace))
        if step > steps:
            break
        records.append(addition(step, classes + 5))
        records += [bound(classes, k, float(rng.uniform(0, best)), step) for k in PRESENTATIONS if rng.random() < 0.8]
        classes += 5
        if classes in MILESTONES:
            records.append(oldest(classes, *(float(x) for x in sorted(rng.uniform(0.2, best, 2))), step=step))
    return made_up(records, steps=steps, **more)
