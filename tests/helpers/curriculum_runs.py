"""What the tests of the curriculum share: images that are easily told apart, and small settings."""

from typing import Any

import numpy as np

from firstsight.lab.curriculum import Curriculum, run_curriculum
from firstsight.lab.curriculum.convnet import Network

SIZE, DRAWINGS = 16, 12
TINY = Curriculum(
    start=4,
    add=3,
    batch=16,
    check_every=2,
    check_images=0,
    max_steps=60,
    optimizer="adam",
    rule="centered",
    save_seconds=0.0,
    network=Network(channels=8),
)


def prototypes(classes: int = 12, seed: int = 0, drawings: int = DRAWINGS) -> np.ndarray:
    """[classes, drawings, SIZE, SIZE] uint8: random coarse patterns, each drawing with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (classes, 1, SIZE // 4, SIZE // 4)) * 200
    noise = rng.integers(0, 56, (classes, drawings, SIZE, SIZE))
    return (coarse.repeat(4, 2).repeat(4, 3) + noise).astype(np.uint8)


def events(result: dict[str, Any], event: str) -> list[dict[str, Any]]:
    return [record for record in result["records"] if record["event"] == event]


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """Without the times and the command, in which no two runs are alike."""
    kept = {name: value for name, value in result.items() if name not in ("seconds", "command", "records", "settings")}
    records = [{name: value for name, value in r.items() if name != "seconds"} for r in result["records"]]
    return {**kept, "records": records}


def run(images: np.ndarray | None = None, settings: Curriculum = TINY, **options: Any) -> dict[str, Any]:
    return run_curriculum(prototypes() if images is None else images, settings, **options)
