"""What chance decides in a curriculum: the order of the classes, the batches, the drawings a check looks at.

Shapes: C classes, n classes introduced so far, B drawings. A drawing is (class, which of its drawings); a label is
the class's place in the order of introduction, and its row in the head.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.data.omniglot import TEST_DRAWINGS

Ints = npt.NDArray[np.int64]
# What a draw is for; part of its seed.
_ORDER, _BATCH, _CHECK, _WEIGHTS, _DROPOUT, _ROWS = range(6)


def image_facts(images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What images are: numbers of classes and drawings, pixels a side, SHA-256 of all."""
    classes, drawings, size, _ = images.shape
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return {"classes": classes, "drawings": drawings, "size": size, "sha256": digest}


class Drawings:
    """The images of a curriculum, and every draw from them.

    Each draw depends on the seed and on where it is made (the step, n), and on nothing that happened before: runs with
    one seed see the same images whatever their head or optimizer, and a run goes on after a kill without the state of
    any generator. A batch takes the same random numbers at the same step in all runs, stretched over the n classes
    that the run has got to; where two runs have the same n, it is the same batch.

    Our decisions: one random order over all classes given, alphabets mixed; batches uniform over the classes so far,
    then over their drawings for training, with replacement, so that no class waits for an epoch to end.

    Args:
        images: [C, drawings, S, S] uint8, more than ``TEST_DRAWINGS`` drawings a class.
        seed: of everything.
        device: where images and labels are handed out.
    """

    def __init__(self, images: npt.NDArray[np.uint8], seed: int, device: torch.device | str = "cpu") -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[2] != images.shape[3]:
            raise InputError(
                f"images is {list(images.shape)} {images.dtype}; expected [classes, drawings, S, S] uint8."
            )
        if images.shape[1] <= TEST_DRAWINGS:
            raise InputError(
                f"images has {images.shape[1]} drawings a class; expected more than {TEST_DRAWINGS}, for the first "
                f"{TEST_DRAWINGS} of each are its test set."
            )
        self.seed, self.device = seed, device
        self.order = np.random.default_rng([seed, _ORDER]).permutation(len(images))
        self.images = torch.from_numpy(np.array(images)).to(device)
        self.facts = image_facts(images)

    def batch(self, step: int, n: int, size: int) -> tuple[Tensor, Tensor]:
        """Drawings [B, S, S] to train on at a step and their labels [B], of n classes."""
        chosen_B2 = np.random.default_rng([self.seed, _BATCH, step]).random((size, 2))
        label_B = (chosen_B2[:, 0] * n).astype(np.int64)
        drawing_B = TEST_DRAWINGS + (chosen_B2[:, 1] * (self.images.shape[1] - TEST_DRAWINGS)).astype(np.int64)
        return self._take(label_B, drawing_B)

    def check(self, step: int, n: int, size: int) -> tuple[Tensor, Tensor]:
        """Test drawings of n classes and their labels: ``size`` of them, without replacement; all if it is 0."""
        everything = n * TEST_DRAWINGS
        chosen_B = np.arange(everything)
        if 0 < size < everything:
            chosen_B = np.random.default_rng([self.seed, _CHECK, step, n]).choice(everything, size, replace=False)
        return self._take(chosen_B // TEST_DRAWINGS, chosen_B % TEST_DRAWINGS)

    def tests_of(self, labels: Ints) -> tuple[Tensor, Tensor]:
        """All test drawings of these classes, and their labels."""
        drawing_B = np.tile(np.arange(TEST_DRAWINGS), len(labels))
        return self._take(np.repeat(labels, TEST_DRAWINGS), drawing_B)

    def _take(self, label_B: Ints, drawing_B: Ints) -> tuple[Tensor, Tensor]:
        class_B, drawing_B_, label_B_ = (
            torch.from_numpy(x).to(self.device) for x in (self.order[label_B], drawing_B, label_B)
        )
        return self.images[class_B, drawing_B_], label_B_

    def seed_weights(self) -> None:
        """Set torch's generator for the first weights."""
        self._seed_torch(_WEIGHTS, 0)

    def seed_dropout(self, step: int) -> None:
        """Set torch's generator for a step."""
        self._seed_torch(_DROPOUT, step)

    def seed_rows(self, n: int) -> None:
        """Set torch's generator for the rows that join n."""
        self._seed_torch(_ROWS, n)

    def _seed_torch(self, purpose: int, at: int) -> None:
        # Neighbouring seeds of torch's generator are not independent; numpy's SeedSequence makes them so.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, purpose, at]).generate_state(1, np.uint64)[0]))
