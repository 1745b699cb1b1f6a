"""For transformers' Trainer, which builds its optimizer itself: ``from firstsight.huggingface import FirstSight``.

Needs transformers, which the package itself does not.
"""

from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

import firstsight
from firstsight.errors import InputError


class FirstSight(TrainerCallback):
    """Attaches the model to the optimizer that the Trainer builds: ``callbacks=[FirstSight(counts="new")]``.

    The layer's buffers are there as soon as the Trainer is made, so that ``resume_from_checkpoint`` and
    ``load_best_model_at_end`` bring the counts back with the weights.

    With ``label_smoothing_factor`` or ``compute_loss_func`` the Trainer takes the labels away from the model's inputs.
    Then hand them over in ``compute_loss`` of a Trainer of your own: ``callback.labels(inputs["labels"])``.

    Args:
        settings: keyword arguments of :func:`firstsight.attach`: ``counts`` first of all.

    Attributes:
        handle: what :func:`firstsight.attach` returned; ``handle.head`` is the head.

    Raises:
        InputError: (a ``ValueError``) as :func:`firstsight.attach`, from the Trainer's constructor.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._model: nn.Module | None = None
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        """What ``attach`` returned."""
        if self._handle is None:
            raise InputError("give this callback to a Trainer first: Trainer(..., callbacks=[callback]).")
        return self._handle

    def labels(self, target: Tensor) -> None:
        """Hand over the labels of the next forward pass, as ``handle.labels``."""
        self.handle.labels(target)

    def on_init_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """The Trainer is made: get the buffers ready."""
        self._adopt(model)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """The optimizer is made, and a checkpoint loaded."""
        if model is not self._model:  # of model_init, a new one for each train()
            self._adopt(model)
        head = self.handle.head
        if not head.attached:
            head.attach(optimizer)

    def _adopt(self, model: nn.Module) -> None:
        self._model, self._handle = model, firstsight.attach(model, None, **self._settings)
