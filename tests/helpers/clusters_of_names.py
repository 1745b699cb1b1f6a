"""Twenty classes, of which every other one comes later."""

import numpy as np

NAMES = np.array([f"class {i:02d}" for i in range(20)], dtype=object)
OLD, NEW = range(0, 20, 2), range(1, 20, 2)  # newcomers belong between the others
