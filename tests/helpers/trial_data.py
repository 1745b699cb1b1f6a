"""Small data to try methods on: classes as clouds, some of them few examples."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.methods.task import Task

SHOWN = 10


@dataclass(frozen=True)
class Clouds:
    """Vectors [N, D] around a centre for each class."""

    hidden: np.ndarray
    labels: np.ndarray


def clouds(seed: int, sizes: list[int], features: int = 8, noise: float = 0.3) -> Clouds:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), features))
    hidden = centres[labels] + noise * rng.normal(size=(len(labels), features))
    return Clouds(hidden.astype(np.float32), labels)


def small_task(seed: int = 0, old: int = 6, new: int = 3, features: int = 8, scale: float = 1.0) -> Task:
    """Old classes of 4 to 20 training examples, ``new`` others on either part; vectors times ``scale``."""
    rng = np.random.default_rng(seed)
    sizes = [int(n) + 6 for n in rng.integers(4, 21, old)] + [SHOWN + 5] * (2 * new)
    data = clouds(seed, sizes, features)
    rows = [np.flatnonzero(data.labels == c) for c in range(len(sizes))]
    y = np.where(data.labels < old + new, data.labels, data.labels - new)
    later = {"valid": rows[old : old + new], "test": rows[old + new :]}
    split: dict[str, Any] = {
        "classes": [str(c) for c in range(old)],
        "new_valid": [f"v{c}" for c in range(new)],
        "new_test": [f"t{c}" for c in range(new)],
        "train": np.concatenate([own[6:] for own in rows[:old]]),
        "valid": np.concatenate([own[:3] for own in rows[:old]]),
        "test": np.concatenate([own[3:6] for own in rows[:old]]),
        "y_of": lambda some: y[some],
    }
    for part, groups in later.items():
        split[f"shown_{part}"] = np.stack([own[:SHOWN] for own in groups])
        split[f"asked_{part}"] = np.concatenate([own[SHOWN:] for own in groups])
    return Task(SimpleNamespace(hidden=data.hidden * np.float32(scale), split=SimpleNamespace(**split)))  # type: ignore[arg-type]


def grown(task: Task, shots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All training vectors and labels once the new classes of the validation part are shown."""
    shown = task.valid.shown_h[:, :shots]
    y = torch.arange(task.num_classes, task.num_classes + len(shown)).repeat_interleave(shots)
    return torch.cat([task.train_h, shown.flatten(0, 1)]), torch.cat([task.train_y, y])


def small_source(seed: int = 0, classes: int = 40, features: int = 8) -> Source:
    """Vectors and labels that a whole trial can be made of: half of the classes have 18 examples."""
    sizes = [18 if c % 2 else 4 + c % 5 for c in range(classes)]
    data = clouds(seed, sizes, features)
    labels = [f"class {c:02d}" for c in data.labels]
    return Source("clouds", labels, data.hidden, None, None, [], f"clouds {seed}", False)
