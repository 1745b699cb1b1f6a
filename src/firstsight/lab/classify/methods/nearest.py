"""The nearest neighbours' vote.

Shapes: B queries, N stored examples, D features, V classes, K neighbours.
"""

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from firstsight.lab.classify.methods.base import Answer, Classifier, State
from firstsight.lab.classify.methods.task import Task, labels_of

LEAST = 1e-6  # a distance, so that a twin's vote is finite


class Nearest(Classifier):
    """K nearest neighbours by Euclidean distance, exact, each voting with 1 / distance (scikit-learn's "distance").

    So that every class keeps a probability, one more vote, as heavy as the mean of the K, is spread over the classes by
    how many examples each has (our decision): p = (K votes + frequencies) / (K + 1).
    """

    def __init__(self, neighbours: int) -> None:
        self.neighbours = neighbours

    def fit(self, task: Task) -> None:
        """Store."""
        self.task = task
        self._index = _index(task.train_h)

    def state(self) -> State:
        """Nothing that is not in the task."""
        return {}

    def restore(self, task: Task, state: State) -> None:
        """Store."""
        self.fit(task)

    def layer(self) -> None:
        """It has none."""

    def answer(self) -> Answer:
        """Of the old classes."""
        counts = self.task.counts
        return lambda h: self._vote(*_found(self._index, h, self.neighbours), self.task.train_y, counts)

    def arrived(self, arrival: str, shown_h: Tensor) -> Answer:
        """With the new examples stored too: the nearest of them join the nearest of the old."""
        shown, V = shown_h.flatten(0, 1), self.task.num_classes
        more_y = labels_of(shown_h, V)
        counts = torch.cat([self.task.counts, torch.bincount(more_y)[V:]])
        y, index = torch.cat([self.task.train_y, more_y]), _index(shown)

        def answer(h: Tensor) -> Tensor:
            old, new = (_found(one, h, self.neighbours) for one in (self._index, index))
            distance = torch.cat([old[0], new[0]], dim=1)
            best = distance.topk(min(self.neighbours, distance.shape[1]), largest=False)
            which = torch.cat([old[1], new[1] + len(self.task.train_y)], dim=1).gather(1, best.indices)
            return self._vote(best.values, which, y, counts)

        return answer

    def _vote(self, distance_BK: Tensor, which_BK: Tensor, y_N: Tensor, counts_V: Tensor) -> Tensor:
        B, K = distance_BK.shape
        vote_BK = 1 / distance_BK.clamp(min=LEAST)
        share_BV = torch.zeros(B, len(counts_V)).scatter_add_(1, y_N[which_BK], vote_BK / vote_BK.sum(1, keepdim=True))
        return ((K * share_BV + counts_V / counts_V.sum()) / (K + 1)).log()


def _index(h: Tensor) -> NearestNeighbors:
    return NearestNeighbors(algorithm="brute", n_jobs=1).fit(h.numpy())


def _found(index: NearestNeighbors, h: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Distances and numbers of the nearest, [B, K] each."""
    found = index.kneighbors(h.numpy(), n_neighbors=min(neighbours, index.n_samples_fit_))
    return torch.from_numpy(found[0]).float(), torch.from_numpy(found[1]).long()
