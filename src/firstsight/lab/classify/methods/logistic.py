"""scikit-learn's multinomial logistic regression, and what happens to its layer when classes come.

Shapes: D features, V old classes, U new ones, k examples of each.
"""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from firstsight.lab.classify.methods.base import Answer, Classifier, State, linear_answer
from firstsight.lab.classify.methods.catalogue import IMPRINTING
from firstsight.lab.classify.methods.rivals import Layer, imprinted
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.methods.trained import replayed

STEPS = 100  # of L-BFGS, at most: scikit-learn's own bound


class Logistic(Classifier):
    """``LogisticRegression(C=C)`` in float32; where ``STEPS`` did not bring it to rest, ``converged`` is False."""

    def __init__(self, strength: float, seed: int) -> None:
        self.strength, self.seed = strength, seed

    def fit(self, task: Task) -> None:
        """Fit; scikit-learn's warning is told by ``converged``."""
        model = LogisticRegression(C=self.strength, max_iter=STEPS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(task.train_h.numpy(), task.train_y.numpy())
        self.converged = not any(issubclass(one.category, ConvergenceWarning) for one in caught)
        weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if len(weight) == 1:  # of two classes it keeps the difference
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self._set(task, weight, bias)

    def _set(self, task: Task, weight: Tensor, bias: Tensor) -> None:
        self.task, self._layer = task, (weight, bias)

    def state(self) -> State:
        """The layer, and whether it converged."""
        return {"weight": self._layer[0], "bias": self._layer[1], "converged": torch.tensor(bool(self.converged))}

    def restore(self, task: Task, state: State) -> None:
        """Be as fitted."""
        self._set(task, state["weight"], state["bias"])
        self.converged = bool(state["converged"])

    def layer(self) -> Layer:
        """Of the old classes."""
        return self._layer

    def answer(self) -> Answer:
        """Of the old classes."""
        return linear_answer(self._layer)

    def arrived(self, arrival: str, shown_h: Tensor) -> Answer:
        """As to any linear layer."""
        start = imprinted(self._layer, shown_h)
        if arrival == IMPRINTING:
            return linear_answer(start)
        return linear_answer(replayed(start, shown_h, self.task.train_h, self.task.train_y, self.seed))
