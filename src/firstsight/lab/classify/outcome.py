"""What one method answered to the queries of one part. A stand-in with the fields alone."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """One method, one way in which new classes come to it, one number of examples, one training, one part."""

    method: str
    arrival: str
    shots: int
    seed: int
    part: str
    old_right: np.ndarray
    old_nll: np.ndarray
    old_confidence: np.ndarray
    new_right: np.ndarray
    new_nll: np.ndarray
    new_confidence: np.ndarray
    old_answer: np.ndarray
    new_answer: np.ndarray
    seconds: float
