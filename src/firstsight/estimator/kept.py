"""Where a classifier comes from but from ``fit``: a file, or a layer that was trained elsewhere; and where it goes.

Shapes: V classes, D features.
"""

import copy
import os
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from firstsight.errors import InputError
from firstsight.estimator import stored
from firstsight.estimator.answers import Answers
from firstsight.estimator.labels import Known, as_labels
from firstsight.estimator.rows import Rows
from firstsight.estimator.settings import device_of
from firstsight.heads import HebbianSoftmax
from firstsight.scaling import Scaling

OF_LAYER = ("rule", "T", "gamma", "price")  # arguments that a layer brings along


class Kept(Answers):
    """The methods of :class:`FirstSightClassifier` that keep it, and make one of what was kept."""

    classes_: np.ndarray
    n_iter_: int

    @classmethod
    def from_layer(cls, layer: HebbianSoftmax, labels: Any, scaling: Scaling, **settings: Any) -> Self:
        """A classifier made of a layer that was trained elsewhere, in a loop of your own, as if ``fit`` had trained it.

        It answers with the layer's logits; ``partial_fit``, ``forget``, ``save`` and ``fit`` with ``warm_start`` go on
        from them. The layer is copied, in float32: what becomes of one does not reach the other.

        Args:
            layer: trained, with a bias. One of another kind: ``HebbianSoftmax.from_linear(linear, "trained")``, and
                show it its training data under ``with layer.looking():``, so that it can tell what new classes are.
            labels: [V] of its rows, in their order, each once; of a kind as ``fit`` takes.
            scaling: what was done to its training vectors before they went in: x became (x / unit - mean) / length.
                ``Scaling(mean)`` for a mean alone, ``Scaling(np.zeros(D))`` for nothing.
            settings: arguments of the classifier, for a later ``fit``. Rule, T, gamma and price are the layer's. Its
                device too, unless another is given.

        Returns:
            It, with an ``n_iter_`` of 0 and without a threshold of ``is_known``.

        Raises:
            InputError: (a ``ValueError``) layer, labels or scaling are not as above, or do not fit each other; a
                setting is one of the layer's; or there is no such device.
        """
        check_layer(layer)
        if theirs := [name for name in OF_LAYER if name in settings]:
            raise InputError(
                f"{' and '.join(theirs)} {'is' if len(theirs) == 1 else 'are'} the layer's; expected settings of the "
                f"classifier alone. Set it on the layer before, layer.{theirs[0]} = ..., where it can be set."
            )
        V, D = layer.weight.shape
        names = as_labels(labels)
        classes, rows = np.unique(names, return_index=True)
        if len(names) != V or len(classes) != V:
            raise InputError(
                f"labels are {len(names)}, of them {len(classes)} different; expected one of each row, {V} different."
            )
        mean_D = np.asarray(scaling.mean_D, dtype=np.float64)
        numbers = float(scaling.unit), float(scaling.length)
        if mean_D.shape != (D,) or not np.isfinite(mean_D).all() or not all(0 < one < np.inf for one in numbers):
            raise InputError(
                f"scaling has a mean of {list(mean_D.shape)}, unit {numbers[0]:g} and length {numbers[1]:g}; expected "
                f"a mean [{D}], finite, as the layer has {D} features, and a unit and a length above 0."
            )
        if settings.get("device") is None:
            settings["device"] = None if layer.weight.device.type == "cpu" else str(layer.weight.device)
        made = cls(**settings, **{name: getattr(layer, name) for name in OF_LAYER})
        head = copy.deepcopy(layer).to(device_of(settings["device"])).float().requires_grad_().eval()
        head.zero_grad()
        made._rows, made._scaling = Rows(head), Scaling(mean_D, *numbers)
        made.n_features_in_, made.n_iter_, made.unknown_threshold_ = D, 0, None
        made._become(Known(classes, rows))
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it into one file: safetensors, with the labels and settings as JSON inside; no pickle.

        An older file is replaced when the new one is whole on the disk, and not before.

        Raises:
            InputError: (a ``ValueError``) ``random_state`` is a generator, which has no name in JSON.
        """
        check_is_fitted(self)
        own = {name: value for name, value in vars(self).items() if name in stored.NUMBERS}
        stored.save(path, self.get_params(), own, self._known, self._rows, self._scaling)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Self:
        """What ``save`` wrote, to the bit.

        Args:
            path: the file.
            device: where its layer goes, as torch names it; None: the CPU, wherever it was.

        Raises:
            InputError: (a ``ValueError``) the file is not there, damaged, of something else, or of a newer version;
                or there is no such device.
        """
        settings, own, known, rows, scaling = stored.load(path, device)
        try:
            loaded = cls(**settings)
        except TypeError as error:  # an argument that there is none of
            raise InputError(f"{path} is not what save wrote: {error}") from error
        loaded._rows, loaded._scaling = rows, scaling
        for name, value in own.items():
            setattr(loaded, name, value)
        loaded._become(known)
        return loaded

    def _become(self, known: Known) -> None:
        self._known, self.classes_ = known, known.classes


def check_layer(layer: HebbianSoftmax) -> None:
    """Raise InputError unless a classifier can be made of the layer."""
    if type(layer) is not HebbianSoftmax:
        raise InputError(
            f"layer is a {type(layer).__name__}; expected a HebbianSoftmax itself. Of a sampled or sharded head make "
            "one by HebbianSoftmax(D, V, ...).load_state_dict(head.state_dict()), or whole_state_dict(); of another "
            'linear layer by HebbianSoftmax.from_linear(linear, "trained"), and show it its training data under '
            "layer.looking()."
        )
    if layer.bias is None:
        raise InputError("the layer has no bias; expected one with bias=True.")
    if "written" in layer.state_dict():
        raise InputError("the layer was made with record=True, for tied embeddings; expected one without.")
