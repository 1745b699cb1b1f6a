"""Methods that the one loop trains: a layer, perhaps a network below it, and what happens to it when classes come.

Shapes: N training examples, D features, V old classes, U new ones, k examples of each.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight import HebbianSoftmax, Softmax
from firstsight.fitting import LEAST_STEPS, Loss, fit_head
from firstsight.lab.classify.methods.base import Answer, Classifier, State, linear_answer
from firstsight.lab.classify.methods.catalogue import EPOCH, IMPRINTING, REPLAY, WRITE, Method
from firstsight.lab.classify.methods.cosine import CosineSoftmax
from firstsight.lab.classify.methods.rivals import ALL_DATA, Layer, finetuned, imprinted
from firstsight.lab.classify.methods.task import Task, labels_of
from firstsight.lab.classify.settings import Trial

WIDTH, DROPOUT, BODY_RATE = 256, 0.2, 1e-3


class Trained(Classifier):
    """A layer trained by Adam; biases start at 0 and rows uniform in +-1/sqrt(D), for all methods alike."""

    def __init__(self, method: Method, settings: Trial, *, rate: float, seed: int, epochs: int) -> None:
        self.method, self.settings, self.rate, self.seed, self.epochs = method, settings, rate, seed, epochs
        self.head: nn.Module
        self.body: nn.Module | None = None

    def _build(self, task: Task) -> None:
        torch.manual_seed(self.seed)
        self.task, D = task, task.train_h.shape[1]
        if self.settings.body == "mlp":
            self.body, D = body_of(D), WIDTH
        self.head = self._head(D, task.num_classes)

    def _head(self, in_features: int, num_classes: int) -> nn.Module:
        if self.method.name == "cosine":
            return CosineSoftmax(in_features, num_classes)
        made = HebbianSoftmax if self.method.ours else Softmax
        return made(in_features, num_classes, **self.method.options)

    def fit(self, task: Task) -> None:
        """Train from the start."""
        self._build(task)
        self._train(self.head, self.body, task.train_h, task.train_y, self.epochs, LEAST_STEPS)

    def _train(
        self, head: nn.Module, body: nn.Module | None, h: Tensor, y: Tensor, epochs: int, least_steps: int
    ) -> None:
        fit_head(
            head,
            h,
            y,
            rate=self.rate,
            epochs=epochs,
            batch_size=self.settings.batch,
            least_steps=least_steps,
            seed=self.seed,
            loss=self._loss(head, torch.bincount(y)),
            balanced=self.method.name == "softmax-balanced",
            body=body,
            body_rate=BODY_RATE,
        )

    def _loss(self, head: Any, counts_V: Tensor) -> Loss | None:
        """What differs from ``head.loss(h, y)``; weights are scikit-learn's "balanced", N / (V n_v)."""
        name = self.method.name
        if name == "softmax-weights":
            weight_V = counts_V.sum() / (len(counts_V) * counts_V.clamp(min=1).float())
            return lambda h, y, which: head.loss(h, y, weight=weight_V)
        if name.endswith("-adjusted"):
            return lambda h, y, which: head.loss(h, y, logit_adjustment=counts_V)
        return None

    def state(self) -> State:
        """Of the layer, and of the body under ``body.``."""
        of_body = {} if self.body is None else self.body.state_dict(prefix="body.")
        return {**self.head.state_dict(prefix="head."), **of_body}

    def restore(self, task: Task, state: State) -> None:
        """Be as trained."""
        self._build(task)
        for name, module in (("head.", self.head), ("body.", self.body)):
            if module is not None:
                module.load_state_dict({k.removeprefix(name): v for k, v in state.items() if k.startswith(name)})
                module.eval()

    def layer(self) -> Layer:
        """On the features that ``_features`` gives."""
        return _layer(self.head)

    def _features(self, h: Tensor, body: nn.Module | None = None) -> Tensor:
        """What the linear layer takes of vectors [..., D]: through the body, and of length 1 for cosine."""
        body = body or self.body
        with torch.no_grad():
            h = h if body is None else body(h)
        return F.normalize(h, dim=-1) if self.method.name == "cosine" else h

    def answer(self) -> Answer:
        """Of the old classes."""
        return linear_answer(self.layer(), self._features)

    def arrived(self, arrival: str, shown_h: Tensor) -> Answer:
        """See ``Classifier``."""
        if arrival == EPOCH:
            return self._another_epoch(shown_h)
        if arrival == WRITE:
            return linear_answer(_layer(self._met(shown_h)), self._features)
        shown = self._features(shown_h)
        if arrival == IMPRINTING:
            return linear_answer(imprinted(self.layer(), shown), self._features)
        assert arrival == REPLAY, arrival
        start = _layer(self._met(shown_h)) if self.method.ours else imprinted(self.layer(), shown)
        layer = replayed(start, shown, self._features(self.task.train_h), self.task.train_y, self.seed)
        return linear_answer(layer, self._features)

    def _met(self, shown_h: Tensor) -> nn.Module:
        """A copy of the layer that has rows for the new classes, as its kind gets them at once."""
        head, shown = copy.deepcopy(self.head), self._features(shown_h)
        if isinstance(head, HebbianSoftmax):
            head.add_classes(len(shown))
            head.write(shown.flatten(0, 1), labels_of(shown, self.task.num_classes))
        elif isinstance(head, CosineSoftmax):
            head.add_rows(shown.mean(1))
        else:
            assert isinstance(head, Softmax)
            head.add_classes(len(shown))
            with torch.no_grad():
                for mine, new in zip((head.weight, head.bias), imprinted(self.layer(), shown), strict=True):
                    assert mine is not None
                    mine.copy_(new)
        return head

    def _another_epoch(self, shown_h: Tensor) -> Answer:
        """After one more pass over all there is, old and new, with the method's own loss, from what came at once.

        Adam starts afresh, from the rates that the training started from and falling to 0 as there. (Our decision: of
        3, 1, 1/3 and 1/10 times these it is best for softmax and cosine on validation examples of the ICD texts, by 3
        to 8 points of the mix at 5 examples; for HebbianSoftmax a third is better, by 0.2 to 0.6.)
        """
        head, body = self._met(shown_h), copy.deepcopy(self.body)
        h = torch.cat([self.task.train_h, shown_h.flatten(0, 1)])
        y = torch.cat([self.task.train_y, labels_of(shown_h, self.task.num_classes)])
        torch.manual_seed(self.seed)
        self._train(head, body, h, y, 1, 0)
        return linear_answer(_layer(head), lambda h: self._features(h, body))


def body_of(in_features: int) -> nn.Module:
    """The network below a layer: D features become 256."""
    return nn.Sequential(nn.Linear(in_features, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT))


def replayed(start: Layer, shown: Tensor, old: Tensor, old_y: Tensor, seed: int) -> Layer:
    """Fine-tuning with replay, the same for every linear layer, from the rows that new classes got at once."""
    return finetuned(start, shown, old, old_y, ALL_DATA, seed=seed)


def _layer(head: nn.Module) -> Layer:
    if isinstance(head, CosineSoftmax):
        return head.layer()
    assert isinstance(head, Softmax)
    assert head.bias is not None
    return head.weight.detach(), head.bias.detach()
