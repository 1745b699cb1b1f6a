"""A fresh random part of a large test split for each evaluation (the cycle of the paper's Figure 6)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.data import Corpus
from firstsight.lab.system.progress import say


@dataclass(frozen=True)
class Sample:
    """Documents drawn from a split."""

    tokens: npt.NDArray[np.uint32]
    """[N], the documents one after the other, in the order of the split"""
    about: dict[str, Any]
    """what brings the same documents back: the ``seed`` of numpy's generator, their number, N"""


class DocumentSampler:
    """Draws documents of the test split without replacement, others for each step.

    The paper draws anew for each evaluation "because the test set is very large". The seed is the run's together with
    the step, so a resumed run draws the same, and two runs with one seed are measured on the same articles.
    """

    def __init__(self, corpus: Corpus, count: int, seed: int) -> None:
        documents = corpus.documents("test")
        if documents is None:
            raise InputError(
                f"{corpus.folder}: this corpus does not know where its test documents begin, so none can be drawn. "
                "Leave --test-documents out, or use a corpus of documents (gutenberg, gigaword)."
            )
        self.tokens, self.documents, self.seed = corpus.split("test"), documents, seed
        self.filled = np.flatnonzero(np.diff(documents.starts))
        self.count = min(count, len(self.filled))
        if self.count < count:
            say(f"the test split has {self.count:,} documents, so all of them are measured instead of {count:,}")

    def draw(self, step: int) -> Sample:
        """The documents of a step."""
        seed = [self.seed, step]
        chosen = np.sort(np.random.default_rng(seed).choice(self.filled, self.count, replace=False))
        starts = self.documents.starts
        tokens = np.concatenate([self.tokens[starts[i] : starts[i + 1]] for i in chosen])
        return Sample(tokens, {"seed": seed, "documents": self.count, "tokens": len(tokens)})
