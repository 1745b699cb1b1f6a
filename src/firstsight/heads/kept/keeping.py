"""What a writing head keeps of its classes beside their rows: counts, moments, who is new; from birth to a saved state.

Shapes: V classes, D features, U classes that occur.
"""

import math
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, check_rule
from firstsight.functional.first_sight import Claims, Sight, first_sight
from firstsight.heads.attachment import Pending
from firstsight.heads.exchange import Group, Sums
from firstsight.heads.head import Head
from firstsight.heads.kept.fresh import KEPT, NEW, READY, SHOWN, TAUGHT, TRAINED, Looks, check_claims, coming
from firstsight.heads.kept.known import Counts, known
from firstsight.heads.kept.moments import Moments, no_moments
from firstsight.heads.kept.state import state_errors
from firstsight.heads.rules import check_prior, find_rule


class Keeping(Head):
    """A head that keeps what a write needs; ``HebbianWrite`` is one that writes.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

    counts: Tensor
    moments: Tensor
    written: Tensor
    _version = 1  # of the layout of state_dict: what Attributes lists
    _prefix = ""  # of the names of what is kept, as buffers of ``_keeper``

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        T: float | None = None,
        gamma: float | None = None,
        bias: bool = True,
        *,
        rule: str = "sight",
        prior_count: float = 10.0,
        price: float = 1.0,
        cap: float | None = None,
        record: bool = False,
        **options: Any,
    ) -> None:
        self.rule, self._rule = rule, find_rule(rule)
        self.T = self._rule.T if T is None else T
        self.gamma = self._rule.gamma if gamma is None else gamma
        self.prior_count, self.price, self.cap = prior_count, price, cap
        check_rule(self.T, self.gamma)
        check_prior(rule, prior_count, bias)
        check_claims(price, cap)
        self._record, self._looks, self._pending = record, Looks(), Pending()
        self._seen: list[Sums] | None = None  # under ``looking``
        self._group: Group = None  # of the last attachment
        super().__init__(in_features, num_classes, bias, **options)

    @property
    def _keeper(self) -> nn.Module:
        """The module whose buffers hold what the write keeps."""
        return self

    def _kept(self, name: str) -> Tensor:
        kept: Tensor = getattr(self._keeper, self._prefix + name)
        return kept

    def _keep(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            with torch.inference_mode(False):  # what is made under it cannot be trained on or loaded into later
                value = value.clone() if value.is_inference() else value
            self._keeper.register_buffer(self._prefix + name, value)

    def _of_sight(self) -> list[str]:
        """The names of what the rule "sight" keeps of each class."""
        return [name for name in KEPT if self._rule.sighted and (name == "fresh" or self.bias is None)]

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        counts: Counts | None = None,
        *,
        new: Classes = (),
        T: float | None = None,
        gamma: float | None = None,
        **options: Any,
    ) -> Self:
        """Take over an ``nn.Linear``: its parameters, not copies, so that its optimizer goes on serving them.

        Args:
            linear: any linear output layer.
            counts: how well its classes are known. No default, for either would be wrong for somebody: ``"new"``, the
                layer starts, and a first sight writes a row; ``"trained"``, its rows are left to the gradient; or how
                often each class has occurred in its training, [V] integers (tensor, array or list). Of these, one that
                never has is new.
            new: classes that a trained layer got since, such as the tokens after ``resize_token_embeddings``.
            T, gamma: as the class.
            options: ``rule``, ``price``, ``cap`` and ``prior_count``, as the class.

        A layer that is trained has yet to be shown what it was trained on, before new classes come:
        ``with head.looking(): ...``.

        Raises:
            InputError: (a ``ValueError``) counts are missing or not as above, or see the class.
        """
        classes, (V, D) = known(linear, counts, new), linear.weight.shape
        head = cls(D, V, T, gamma, linear.bias is not None, device="meta", **options)
        head.weight, head.bias = cast(nn.Parameter, linear.weight), cast(nn.Parameter | None, linear.bias)
        head._keep_nothing(*classes)
        return head

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0, counts 1."""
        super().reset_parameters()
        self._looks.forget()
        self._keep_nothing(torch.ones(self.num_classes, dtype=torch.int64, device=self.weight.device))

    def _keep_nothing(self, counts: Tensor, fresh: Tensor | None = None) -> None:
        """Start what is kept beside the rows, with these counts, and classes that are what ``fresh`` says."""
        if fresh is not None and not self._rule.sighted:  # what is left to the gradient has a count of T then
            counts = counts.masked_fill(fresh == TAUGHT, math.ceil(self.T))
        self._keep("counts", counts)
        self._keep("moments", no_moments(self.weight, self._rule.needs))
        self._keep("written", torch.zeros_like(self.weight.detach()) if self._record else None)
        for name in self._of_sight():
            given = fresh if name == "fresh" else None
            zeros = torch.zeros(self.num_classes, dtype=KEPT[name], device=self.weight.device)
            self._keep(name, zeros if given is None else given)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """As of every module; but a cast of the model leaves the moments their precision."""
        moments = self._kept("moments") if self._rule.needs != "nothing" else None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if moments is not None and not moments.is_meta:
            now = self._kept("moments")
            self._keep("moments", now if now.dtype.itemsize >= 4 else moments.to(now.device))
        return self

    def add_classes(self, n: int) -> None:
        """As :meth:`Softmax.add_classes`; the new classes' counts are 1: their first sight writes their rows.

        With the rule "sight" they are *new* to a layer that was trained and is attached to no optimizer now, or that
        was taken over trained. Added to one that is being trained they are like all its others, and written as
        "centered" writes, unless a call of ``write`` comes first.
        """
        self._check_not_looking()
        unchanged = self._looks.keep(self.weight, self.bias)
        super().add_classes(n)
        counts = self._kept("counts")
        self._keep("counts", torch.cat([counts, counts.new_ones(n)]))
        if self._record:
            written = self._kept("written")
            self._keep("written", torch.cat([written, written.new_zeros(n, self.in_features)]))
        if self._rule.sighted:
            later = self._is_taken_over() or (not self.attached and Moments(self._kept("moments")).trained())
            for name in self._of_sight():
                kept = self._kept(name)
                start = NEW if name == "fresh" and later else TRAINED
                self._keep(name, torch.cat([kept, kept.new_full((n,), start)]))
            unchanged()

    def _keep_classes(
        self, kept: Tensor, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self._check_not_looking()
        self._pending.keep_classes(kept, self.num_classes)
        super()._keep_classes(kept, parameters, optimizers)
        for name in ["counts"] + ["written"] * self._record + self._of_sight():
            self._keep(name, self._kept(name)[kept])
        self._looks.forget()

    @property
    def is_looking(self) -> bool:
        """Whether it is under :meth:`looking`."""
        return self._seen is not None

    def _check_not_looking(self) -> None:
        if self.is_looking:
            raise InputError("the layer is under looking(); add or remove classes before or after it.")

    def _own_counts(self) -> Tensor:
        return self._kept("counts") - 1

    def _take_in(self, sums: Sums, training: bool) -> tuple[Sums, Moments | None]:
        """The classes' own sums, and the moments that the rule uses, after this step; None before the first.

        The moments that a first sight goes by are those of training: in a trained layer what is written by a call of
        ``write`` does not enter them.
        """
        if self._rule.needs == "nothing":
            return sums, None
        self._keep("moments", self._kept("moments").to(sums[1].dtype))  # .half() of a model reaches its buffers
        moments = Moments(self._kept("moments"))
        if self._rule.sighted and not training and self._is_trained(moments):
            own_U = sums[0] >= 0
            sums = sums[0][own_U], sums[1][own_U], sums[2][own_U]
        else:
            sums = moments.take_in_(sums, self.weight if training else None)
        return sums, None if moments.empty() else moments

    def _look(self, classes_U: Tensor, T: float, training: bool) -> tuple[Tensor, Sight | None]:
        """Those of the classes that are written, and a look at the layer, if one of them is new."""
        fresh_V, counts_V = self._kept("fresh"), self._kept("counts")
        classes_U = classes_U[classes_U >= 0]
        classes_U = classes_U[counts_V[classes_U] < T]
        moments = Moments(self._kept("moments"))
        if not training and self._is_trained(moments):  # what it has never met is new to it
            never_U = (fresh_V[classes_U] == TRAINED) & (counts_V[classes_U] == 1)
            fresh_V[classes_U[never_U]] = NEW
        elif not training:  # a layer that was never trained is a memory alone: nothing in it is new
            fresh_V[classes_U] = TRAINED
        if not bool(coming(fresh_V[classes_U]).any()):  # of the classes written alone: this is every step's
            return classes_U, None
        coming_V = coming(fresh_V)
        occurrences_V = torch.where(fresh_V == TAUGHT, (counts_V - 1).clamp(min=1), counts_V - 1)
        occurrences_V = occurrences_V.masked_fill(coming_V & (counts_V < self.T), 0)
        return classes_U, self._looks.take(self.weight, self.bias, occurrences_V, moments, training)

    @torch.no_grad()
    def _start_moments(self, sums: Sums) -> None:
        """Moments afresh, of these class sums alone; and counts, of classes whose counts are not known."""
        self._keep("moments", no_moments(self.weight, self._rule.needs))
        with torch.autocast(self.weight.device.type, enabled=False):
            classes_U, _, occurrences_U = Moments(self._kept("moments")).take_in_(sums, self.weight, rate=1.0)
        if self._rule.sighted:
            unknown_U = self._kept("fresh")[classes_U] == TAUGHT
            self._kept("counts")[classes_U[unknown_U]] = 1 + occurrences_U[unknown_U]
        self._looks.forget()

    def _is_taken_over(self) -> bool:
        """Whether it was a trained layer before it was a head."""
        return bool((self._kept("fresh") >= TAUGHT).any())

    def _is_trained(self, moments: Moments) -> bool:
        """Whether gradients have made its rows, as far as can be known; at its first steps they have not yet."""
        steps = moments.trained() and (moments.weight() >= READY or not self.attached)
        return steps or self._is_taken_over()

    def _biases(self) -> Tensor:
        """[V] of the layer, or what its rows hold of them."""
        return self._kept("lifted") if self.bias is None else self.bias

    def _claims(self) -> Claims:
        """What a new class may cost the trained ones."""
        check_claims(self.price, self.cap)
        together = 1 if self.cap is None else max(1, int(coming(self._kept("fresh")).sum()))
        return Claims(self.price, math.inf if self.cap is None else self.cap / together)

    def _share_out(self, sight: Sight, written_U: Tensor) -> None:
        """Under a cap: new classes that were not written now have to do with less if there are more of them now."""
        claims, fresh_V = self._claims(), self._kept("fresh")
        if self.cap is None or claims == self._looks.claims:
            return
        self._looks.claims = claims
        others_V = (fresh_V == SHOWN) & (self._kept("counts") < self.T)
        others_V[written_U] = False
        at = others_V.nonzero()[:, 0]
        biases_V = self._biases()
        counts_U, nothing_U = self._kept("counts")[at] - 1, torch.zeros_like(at)
        before_UD = self.weight[at]
        rows_UD, bias_U = first_sight(sight, before_UD, biases_V[at], counts_U, before_UD, nothing_U, claims=claims)
        less_U = bias_U < biases_V[at]
        at, rows_UD, before_UD = at[less_U], rows_UD[less_U].to(self.weight.dtype), before_UD[less_U]
        biases_V[at] = bias_U[less_U].to(biases_V.dtype)
        if self.bias is None:
            self.weight[at] = rows_UD
            if self._record:
                self._kept("written")[at] += rows_UD - before_UD

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        errors = state_errors(
            state_dict,
            prefix,
            moments=None if self._rule.needs == "nothing" else self._kept("moments").shape,
            num_classes=self.num_classes,
            T=self.T,
            record=self._record,
            version=local_metadata.get("version", 1),
            newest=self._version,
        )
        rest[-1].extend(errors)  # torch's list of messages
        self._looks.forget()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pending": Pending(), "_looks": Looks(), "_seen": None, "_group": None}

    def extra_repr(self) -> str:
        """The sizes and the rule, for ``print``."""
        claims = f", price={self.price}, cap={self.cap}" if self._rule.sighted else ""
        return f"{super().extra_repr()}, T={self.T}, gamma={self.gamma}, rule={self.rule}{claims}"
