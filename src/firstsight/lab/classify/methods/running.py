"""Classifiers of running sums, to which examples are added exactly: class means, and streaming LDA.

Shapes: N examples, D features, V classes.
"""

import math
from abc import abstractmethod
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor

from firstsight.lab.classify.methods.base import Answer, Classifier, State, asked, linear_answer
from firstsight.lab.classify.methods.rivals import Layer
from firstsight.lab.classify.methods.task import Task, labels_of

TEMPERATURES = (-7.0, 12.0)  # where the logarithm of what logits are multiplied by is looked for


ROWS = 8192  # of a block


class Sums(NamedTuple):
    """Of all examples so far: how many of each class [V], their sums [V, D], and all outer products' sum [D, D]."""

    counts: Tensor
    sums: Tensor
    outer: Tensor

    @classmethod
    def of(cls, h: Tensor, y: Tensor, num_classes: int) -> Self:
        """Of [N, D] float with classes [N], in float64, block by block."""
        D = h.shape[1]
        sums, outer = torch.zeros(num_classes, D).double(), torch.zeros(D, D).double()
        for start in range(0, len(y), ROWS):
            h_BD = h[start : start + ROWS].double()
            sums.index_add_(0, y[start : start + ROWS], h_BD)
            outer += h_BD.T @ h_BD
        return cls(torch.bincount(y, minlength=num_classes).double(), sums, outer)

    def grown(self, h: Tensor, y: Tensor, num_classes: int) -> Self:
        """With further examples, of further classes perhaps."""
        more, U = self.of(h, y, num_classes), num_classes - len(self.counts)
        counts, sums = F.pad(self.counts, (0, U)), F.pad(self.sums, (0, 0, 0, U))
        return type(self)(counts + more.counts, sums + more.sums, self.outer + more.outer)

    def means(self) -> Tensor:
        """[V, D]."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def covariance(self) -> Tensor:
        """[D, D]: within classes, shared by all."""
        return (self.outer - self.means().T @ self.sums) / self.counts.sum()


class _Running(Classifier):
    """A linear layer made of ``Sums``, whose logits are multiplied by one number, set on the validation part.

    The number changes no answer, only how sure it is: it gives the lowest NLL on the old classes' validation examples.
    """

    sums: Sums
    temperature = 1.0

    def fit(self, task: Task) -> None:
        """Add up, and set the temperature."""
        self.restore(task, {"temperature": torch.ones(())})
        part = task.valid
        if len(part.old_y) == 0:
            return

        def nll(log_temperature: float) -> float:
            answer = linear_answer(_times(self._linear(self.sums), math.exp(log_temperature)))
            return float(asked(answer, part.old_h, part.old_y, task.num_classes)[2].mean())

        found = minimize_scalar(nll, bounds=TEMPERATURES, method="bounded", options={"xatol": 0.05, "maxiter": 30})
        self.temperature = math.exp(found.x)

    def state(self) -> State:
        """Its temperature; the sums are soon made."""
        return {"temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    def restore(self, task: Task, state: State) -> None:
        """Add up."""
        self.task, self.temperature = task, float(state["temperature"])
        self.sums = Sums.of(task.train_h, task.train_y, task.num_classes)

    @abstractmethod
    def _linear(self, sums: Sums) -> Layer:
        """The layer before its temperature, float64."""

    def layer(self) -> Layer:
        """Of the old classes."""
        return _times(self._linear(self.sums), self.temperature)

    def answer(self) -> Answer:
        """Of the old classes."""
        return linear_answer(self.layer())

    def arrived(self, arrival: str, shown_h: Tensor) -> Answer:
        """With the new examples added."""
        V = self.task.num_classes
        sums = self.sums.grown(shown_h.flatten(0, 1), labels_of(shown_h, V), V + len(shown_h))
        return linear_answer(_times(self._linear(sums), self.temperature))


class Means(_Running):
    """The nearest class mean (Mensink et al. 2013, Rebuffi et al. 2017): logits are -t |h - mean|^2."""

    def _linear(self, sums: Sums) -> Layer:
        means = sums.means()
        return 2 * means, -means.square().sum(1)


class LDA(_Running):
    r"""Streaming LDA (Hayes & Kanan 2020): rows :math:`S^{-1} \mu_v`, biases :math:`-\mu_v S^{-1} \mu_v / 2`.

    S is the covariance within classes, shrunk to a multiple of the identity, (1 - e) C + e (tr C / D) I, so that the
    same grid of e suits vectors of any unit; no class is preferred for being frequent, as in the source.
    """

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage

    def _linear(self, sums: Sums) -> Layer:
        covariance, means = sums.covariance(), sums.means()
        level = covariance.diagonal().mean().clamp(min=1e-12)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * level * torch.eye(len(covariance)).double()
        rows = torch.linalg.solve(shrunk, means.T).T
        return rows, -0.5 * (rows * means).sum(1)


def _times(layer: Layer, temperature: float) -> Layer:
    """In float32, which answers are computed in."""
    return (temperature * layer[0]).float(), (temperature * layer[1]).float()
