"""The classifier itself: what trains it, what it is shown afterwards, what it forgets, and how it is kept.

Shapes: N examples, C classes, D features.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted
from torch import Tensor

from firstsight.errors import InputError, warn
from firstsight.estimator.kept import Kept
from firstsight.estimator.labels import UNMET, Known, as_labels, readable
from firstsight.estimator.rows import Rows, seeded
from firstsight.estimator.settings import check_settings, device_of
from firstsight.estimator.weights import class_means, loss_of, weights_of
from firstsight.fitting import fit_head
from firstsight.heads import HebbianSoftmax
from firstsight.heads.rules import RuleName
from firstsight.heads.steps.whole import uninterrupted
from firstsight.scaling import Scaling

LOGIT_STEP = 1.0  # of the rate "auto"


class FirstSightClassifier(Kept):
    r"""A linear classifier of vectors that knows a class from its first example, with the classes before unharmed.

    ``fit`` trains a softmax layer by Adam. ``partial_fit`` writes what comes later into it: a label never seen before
    gets a row from its first example, without a gradient, in milliseconds.

    Args:
        rule: of the layer's write, one of ``firstsight.heads.rules.RULES``. Only "sight" finds a class that comes to
            a trained layer: the others make it a row that is right among those being trained, and seldom wins against
            those that are trained already (docs/rule.md).
        T: ``fit`` writes a class's row, beside training it, until the class was seen so often, over all epochs; a
            class seen more often is what later examples leave alone. None: the rule's own, 100 for "sight".
        gamma: smallest rate of the write, in [0, 1]. None: the rule's own, 0.02 for "sight".
        logit_adjustment: tau, 0 to 10: ``fit`` adds :math:`\tau \log \pi_v` to each logit, :math:`\pi_v` how often
            the class occurs in y, and answers do without, so that rare classes are found more often (Menon et al.
            2021 have 1). With weights the loss has both, and both raise rare classes.
        learning_rate: what Adam's rate falls from, linearly to 0. "auto": :math:`1 / \sqrt{D}`, for Adam moves each
            number of a row by the rate, and so a logit by up to 1 a step whatever D is (our decision).
        epochs: passes over the examples of ``fit``.
        batch_size: examples a step.
        least_steps: steps of ``fit`` at least, for data of few batches.
        class_weight: of each class's loss in ``fit``: None, "balanced" (one over how often it occurs), or a dict of
            labels, 1 where one is missing. Those that y does not have do nothing. What is written later has no loss,
            and no such weight.
        warm_start: ``fit`` goes on from what is there, with the classes that y has more; see :meth:`fit`.
        price: of a new class, with the rule "sight": what an activation that known classes lose to it costs, in those
            that it wins. More of it keeps the known ones safer, and finds fewer of the new.
        random_state: of the layer's start and of the order of examples; a number for the same result each time.
        device: where the layer is, as torch names it: "cuda", "cuda:1". None: the CPU. It takes effect in ``fit``.

    Attributes:
        classes_: [C] the labels, sorted, those that came later in their place among them.
        n_features_in_, feature_names_in_: D, and the names of a data frame's columns.
        n_iter_: passes over the examples that the last ``fit`` took.
        unknown_threshold_: of ``is_known``; None before ``set_unknown_threshold``.

    Raises:
        InputError: (a ``ValueError``) from ``fit``, where an argument is not as above.
    """

    def __init__(
        self,
        *,
        rule: RuleName = "sight",
        T: float | None = None,
        gamma: float | None = None,
        logit_adjustment: float = 0.0,
        learning_rate: float | Literal["auto"] = "auto",
        epochs: int = 12,
        batch_size: int = 256,
        least_steps: int = 300,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        warm_start: bool = False,
        price: float = 1.0,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.rule = rule
        self.T = T
        self.gamma = gamma
        self.logit_adjustment = logit_adjustment
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.least_steps = least_steps
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.price = price
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on examples of two classes or more.

        With ``warm_start`` the layer that is there is trained on, with the T, gamma and price that are set now: its
        classes stay, and those that y has more come to them, as if by ``partial_fit``. A class without examples in y
        stays too, and is warned of: all others are trained against it.

        Args:
            X: [N, D] numbers, finite, of any scale: they are centred and divided by one number.
            y: [N] labels: strings, whole numbers or booleans.
            sample_weight: [N], each 0 or more, of the examples' loss. Those of 0 count as absent. The write of the
                layer takes each of the others once, whatever its weight.

        Raises:
            InputError: (a ``ValueError``) an argument is not as above, or the layer that is there has another rule.
            ValueError: of scikit-learn, for the same reason.
        """
        return self._taken_from(self._fitted(X, y, sample_weight))

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from examples of known classes, of new ones, or of both: written at once, nothing is trained.

        Before any ``fit``, the first call is one. Afterwards an example of a class that ``fit`` saw T times over all
        epochs, which with few data is every class, changes nothing (which is warned of if all are such); one of a rarer
        class moves its row, and one of a new class makes it. The first new class after a ``fit`` takes a look at all
        rows, and so does the next one after a rare class's row was moved.

        Args:
            X: [N, D] as in ``fit``, in the same units.
            y: [N] labels of the same kind as those known.
            classes: labels that are to be in ``classes_`` from now on, with or without examples; those without have a
                probability of 0 until some come. Not needed: a label is new when it comes.
            sample_weight: [N], each 0 or more: how much an example counts in the mean of its class's examples here.
                Those of 0 count as absent.

        Raises:
            InputError: (a ``ValueError``) an argument is not as above; nothing has changed.
            ValueError: of scikit-learn, for the same reason.
        """
        declared = None if classes is None else as_labels(classes)
        if not self.__sklearn_is_fitted__():
            made = self._fitted(X, y, sample_weight)
            made._become(made._known if declared is None else made._known.declared(declared))
            return self._taken_from(made)
        x_ND, labels, weight_N = self._examples(X, y, sample_weight, reset=False)
        known = self._known if declared is None else self._known.declared(declared)
        known = known.met(labels, self._rows.used)
        h_ND = self._scaling.scaled(x_ND)
        y_N = torch.from_numpy(known.rows[known.places(labels)])
        head, y_N = self._rows.head, y_N.to(self._rows.device)
        with uninterrupted():
            self._rows.begin(known.num_met - self._rows.used)
            if bool((head.counts[y_N] >= head.T).all()):
                warn(
                    "nothing was learnt: these classes were seen so often in fit, over all epochs, that a single "
                    "example says nothing new of them. To train on what came since, call fit on all of it, with "
                    "warm_start=True to go on from here."
                )
            else:
                h_ND = h_ND if weight_N is None else class_means(h_ND, y_N.cpu(), torch.from_numpy(weight_N))
                head.write(h_ND.to(self._rows.device), y_N)
            self._rows.used = known.num_met
            self._become(known)
        return self

    @uninterrupted()
    def forget(self, labels: Any) -> Self:
        """Forget a class, or several: nothing of their rows and names is left, here or in what is saved from now on.

        A dict ``class_weight`` is replaced by one without them; the one that was given is left as it is.

        What remains is their part in the mean and covariance of all training examples, and in the rows of others that
        were trained against them; only ``fit`` without them ends that. The rows behind the first that goes move up.

        Args:
            labels: one label, or an array of them, each known.

        Raises:
            InputError: (a ``ValueError``) one is not known, or no class would be left; nothing has changed.
        """
        check_is_fitted(self)
        gone = as_labels([labels] if isinstance(labels, str) or np.ndim(labels) == 0 else labels)
        places = np.unique(self._known.places(gone))
        if (places < 0).any():
            missing = gone[self._known.places(gone) < 0]
            raise InputError(f"{readable(missing[0])} is no class that is known; expected some of classes_.")
        rows = self._known.rows[places]
        rows = rows[rows != UNMET]
        if len(rows) == self._rows.used:
            raise InputError("no class would be left; to begin anew, call fit.")
        if len(rows):
            self._rows.remove(torch.from_numpy(rows))
        if isinstance(self.class_weight, Mapping):
            names = set(gone.tolist())
            self.class_weight = {label: weight for label, weight in self.class_weight.items() if label not in names}
        self._become(self._known.without(places))
        return self

    def _examples(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What counts of X, y and the weights, checked; None for weights that are all alike."""
        labels = as_labels(y)
        x_ND = self._checked(X, reset=reset)
        check_consistent_length(x_ND, labels)
        if sample_weight is None:
            return x_ND, labels, None
        weight_N = _check_sample_weight(sample_weight, x_ND, dtype=np.float64)
        if (weight_N < 0).any():
            raise InputError(f"sample_weight goes down to {weight_N.min():g}; expected 0 or more of each.")
        counts = weight_N > 0
        weight_N, x_ND, labels = (part if counts.all() else part[counts] for part in (weight_N, x_ND, labels))
        return x_ND, labels, None if (weight_N == weight_N[0]).all() else weight_N

    def _fitted(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Another one, of the same settings, that was fitted; whatever stops it, this one stays wholly as it was."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        goes_on = self.warm_start and self.__sklearn_is_fitted__()
        x_ND, labels, weight_N = made._examples(X, y, sample_weight, reset=not goes_on)
        check_settings(made)
        made._train(x_ND, labels, weight_N, goes_on)
        return made

    def _taken_from(self, made: Self) -> Self:
        """This one, as the other is: in one assignment, so that an interrupt comes before it or after."""
        self.__dict__ = made.__dict__
        return self

    def _train(self, x_ND: np.ndarray, labels: np.ndarray, weight_N: np.ndarray | None, goes_on: bool) -> None:
        found = np.unique(labels)
        known = self._known.met(found, self._rows.used) if goes_on else Known(found, np.arange(len(found)))
        if known.num_met < 2:
            raise InputError(
                f"y holds one class, {found[0]!r}, that has examples of a weight above 0; the first training needs 2 "
                "classes at least. Others may come later, by partial_fit."
            )
        if goes_on and (absent := known.num_met - len(found)):
            warn(
                f"{absent} of the classes known have no example in y, and the others are trained against them: they "
                "will be found less often. Give examples of all, or forget those that are gone."
            )
        scaling = self._scaling if goes_on else Scaling.of(x_ND)
        device = self._rows.device if goes_on else device_of(self.device)
        h_ND = scaling.scaled(x_ND).to(device)
        y_N = torch.from_numpy(known.rows[known.places(labels)]).to(device)
        weight_N = weights_of(self.class_weight, labels, weight_N)
        of_layer: dict[str, Any] = {"rule": self.rule, "T": self.T, "gamma": self.gamma, "price": self.price}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with seeded(seed, device):
            if not goes_on:
                rows = Rows(HebbianSoftmax(h_ND.shape[1], len(found), **of_layer, device=device))
            else:
                rows = self._grown(known, of_layer)
            rate = LOGIT_STEP / h_ND.shape[1] ** 0.5 if self.learning_rate == "auto" else float(self.learning_rate)
            steps = fit_head(
                rows.head,
                h_ND,
                y_N,
                rate=rate,
                epochs=self.epochs,
                batch_size=self.batch_size,
                least_steps=self.least_steps,
                seed=seed,
                loss=loss_of(rows.head, y_N, weight_N, float(self.logit_adjustment)),
            )
        _check_rows(rows.head, h_ND, rate)
        self._rows, self._scaling, self.unknown_threshold_ = rows, scaling, None
        self.n_iter_ = -(-steps // -(-len(labels) // self.batch_size))
        self._become(known)

    def _grown(self, known: Known, of_layer: dict[str, Any]) -> Rows:
        """A copy of the layer with what is set now, and with the rows of classes that have come."""
        rows = copy.deepcopy(self._rows)
        head, as_set = rows.head, HebbianSoftmax(1, 1, **of_layer)  # which checks them, and knows what None is
        if head.rule != as_set.rule:
            raise InputError(
                f"rule is {as_set.rule!r}, and the layer that is there was trained with {head.rule!r}, which keeps "
                "other things of its classes; expected the same, or warm_start=False to begin anew."
            )
        head.T, head.gamma, head.price = as_set.T, as_set.gamma, as_set.price
        rows.trim()
        if new := known.num_met - rows.used:
            rows.head.add_classes(new)
            rows.used += new
        return rows


def _check_rows(head: HebbianSoftmax, h_ND: Tensor, rate: float) -> None:
    """Raise InputError unless the layer's logits, and the squares that they are bounded by, are finite."""
    assert head.bias is not None
    with torch.no_grad():
        most = head.weight.norm(dim=1).max() * h_ND.norm(dim=1).max() + head.bias.abs().max()
    if not bool(most.isfinite()):
        raise InputError(
            f"the training with a learning_rate of {rate:g} ended with rows that are not finite; lower the learning "
            'rate, or leave it at "auto". Nothing has changed.'
        )
