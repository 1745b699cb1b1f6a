"""Stand-in."""

from typing import Any

import numpy as np

from firstsight.lab.classify.outcome import Outcome


def compare(
    ours: list[Outcome],
    rival: list[Outcome],
    old_y: np.ndarray,
    new_y: np.ndarray,
    old_counts: np.ndarray,
    new_share: float,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Stand-in."""
    mean = {
        name: float(
            np.mean([(1 - new_share) * one.old_right.mean() + new_share * one.new_right.mean() for one in side])
        )
        for name, side in (("ours", ours), ("rival", rival))
    }
    return {"mixed": mean, "verdict": "ours" if mean["ours"] > mean["rival"] else "rival"}
