"""What becomes of what a writing head keeps: as classes come and go, as it trains, and when a new one is written.

Shapes: V classes, D features, U classes that occur.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import class_sums
from firstsight.functional.first_sight import Claims, Sight, first_sight
from firstsight.functional.inner_step import check_surprise, surprise
from firstsight.functional.rows import Rows, rows_of
from firstsight.heads.kept.fresh import NEW, READY, SHOWN, TAUGHT, TRAINED, check_claims, coming
from firstsight.heads.kept.looking import looking
from firstsight.heads.kept.moments import Moments, no_moments, with_second_moment
from firstsight.heads.kept.state import steps_of
from firstsight.heads.kept.stored import Stored
from firstsight.heads.objectives import with_surprise
from firstsight.heads.steps.attachment import Seen, together
from firstsight.heads.steps.exchange import Group, Sums, exchange, is_shared
from firstsight.heads.steps.room import longer, shorter
from firstsight.heads.steps.whole import uninterrupted


class Keeping(Stored):
    """A head that keeps up what a write needs; ``HebbianWrite`` is one that writes.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

    @uninterrupted()
    def add_classes(self, n: int) -> None:
        """As :meth:`Softmax.add_classes`; the new classes' counts are 1: their first sight writes their rows.

        With the rule "sight" they are *new* to a layer that was trained and is attached to no optimizer now, or that
        was taken over trained. Added to one that is being trained they are like all its others, and written as
        "centered" writes, unless a call of ``write`` comes first.
        """
        self._check_not_looking()
        self._settle()
        self._watch.forget_rows()
        unchanged = self._looks.keep(self.weight, self.bias)
        super().add_classes(n)
        self._keep("counts", longer(self._kept("counts"), n, 1))
        if self._record:
            self._keep("written", longer(self._kept("written"), n, 0))
        if self._rule.sighted:
            later = self._has_taught() or (not self.attached and Moments(self._kept("moments")).trained())
            for name in self._of_sight():
                start = NEW if name == "fresh" and later else TRAINED
                self._keep(name, longer(self._kept(name), n, start))
            unchanged()

    def _keep_classes(
        self, kept: Tensor, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self._check_not_looking()
        self._settle()
        self._watch.forget_rows()
        self._pending.keep_classes(kept, len(self.weight), self._over_all)
        if self._rule.sighted:
            moments = Moments(self._kept("moments"))
            moments.forget_rows_(self.weight.detach(), self._occurrences, kept, self._over_all)
        super()._keep_classes(kept, parameters, optimizers)
        for name in ["counts"] + ["written"] * self._record + self._of_sight():
            self._keep(name, shorter(self._kept(name), kept))
        self._looks.forget()

    @contextmanager
    def looking(self, *, group: Group = None) -> Iterator[None]:
        """Show a trained layer what it was trained on, so that it knows what to make of classes that come later.

        For a layer that was taken over (``from_linear``, ``attach``): under ``with head.looking():`` run a pass over
        its training data, or some thousands of examples of it, through ``loss``, ``nll`` or the model. Nothing is
        written, and no gradient is needed. At the end the layer's moments are those of what it saw, and classes whose
        counts are not known (``counts="trained"``) count what was seen of them. A layer that was trained with the
        rule does not need it.

        Args:
            group: as :meth:`attach`, and by default what was given there; at the end a collective, at which every rank
                brings what it saw.

        Raises:
            InputError: (a ``ValueError``) the rule keeps no moments, the layer is looking already, or saw nothing.
        """
        with looking([self], group):
            yield

    def _nothing(self) -> Sums:
        return self._sums(self.weight.detach()[:0], self._kept("counts")[:0])

    def _sums(self, hidden: Tensor, target: Tensor) -> Sums:
        hidden = hidden.to(torch.promote_types(self.weight.dtype, torch.float32))
        sums = class_sums(hidden, target, ignore_index=self.ignore_index)
        if self._rule.needs in ("nothing", "mean"):
            return sums
        return with_second_moment(sums, hidden[target != self.ignore_index])

    def _examples(self, hidden: Tensor, target: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Copies of those that the write has yet to look at one by one, after the optimizer's step; else none."""
        if self.objective != "softmax":
            return ()
        keep = target != self.ignore_index
        return ((hidden[keep].to(torch.promote_types(self.weight.dtype, torch.float32)), target[keep]),)

    @torch.no_grad()
    def _of_step(self, parts: list[Seen], T: float, *, training: bool) -> Sums:
        """The sums of all that was seen since the last step; of the objective softmax ``with_surprise``.

        The rows are those that the optimizer has just made. Only examples whose class is still written are looked at.
        """
        seen = together([Seen(self._nothing()), *parts]) if len(parts) != 1 else parts[0]
        if self.objective != "softmax":
            return seen.sums
        nothing = self._examples(self.weight[:0], self._kept("counts")[:0])
        h_ND, y_N = (torch.cat(part) for part in zip(*nothing, *seen.examples, strict=True))
        g_N, written_N = h_ND.new_zeros(len(y_N)), self._kept("counts")[y_N] < T
        with torch.autocast(h_ND.device.type, enabled=False):
            nll_N = self._nll_of(h_ND[written_N], y_N[written_N])
        g_N[written_N] = surprise(nll_N).to(g_N.dtype)
        sums = with_surprise(seen.sums, h_ND, y_N, g_N)
        if not training:
            check_surprise(sums[1])
        elif not bool(sums[1].isfinite().all()):
            self._watch.say("not finite")
            h_ND, y_N, g_N = (part[g_N.isfinite()] for part in (h_ND, y_N, g_N))
            sums = with_surprise(self._sums(h_ND, y_N), h_ND, y_N, g_N)
            if not bool(sums[1].isfinite().all()):  # too large to be added up
                sums = with_surprise(self._nothing(), h_ND[:0], y_N[:0], g_N[:0])
        return sums

    def _nll_of(self, hidden: Tensor, target: Tensor) -> Tensor:
        return super()._cross_entropy(hidden, target, "none")  # type: ignore[safe-super]

    def _over_all(self, x: Tensor) -> Tensor:
        """The sum of what all processes have that the classes are shared out over; here one has all."""
        return x

    def _exchanged(self, sums: Sums, skip: bool, group: Group, after: int = 0) -> Sums:
        """The class sums of all ranks of the group; these where there are no others. ``after``: as in ``attach``."""
        if not is_shared(group):
            return sums
        return exchange(sums, skip, group, {**self._terms(), "after": after}, steps_of(self._kept("settings")))

    def _terms(self) -> dict[str, Any]:
        """What has to be alike on all ranks that write together, or their rows come apart."""
        sizes = {"num_classes": self.num_classes, "in_features": self.in_features, "bias": self.bias is not None}
        terms = {**sizes, "dtype": str(self.weight.dtype), **self._told()}
        if self._rule.shrinking:
            terms["prior_count"] = float(self.prior_count)
        if self._rule.sighted:
            terms |= {"price": float(self.price), "cap": None if self.cap is None else float(self.cap)}
        return terms

    @property
    def is_looking(self) -> bool:
        """Whether it is under :meth:`looking`."""
        return self._seen is not None

    def _check_not_looking(self) -> None:
        if self.is_looking:
            raise InputError("the layer is under looking(); add or remove classes before or after it.")

    def embedding(self, tokens: Tensor) -> Tensor:
        """As :meth:`Softmax.embedding`; with ``record`` without what was written into the rows."""
        rows = super().embedding(tokens)
        return rows - F.embedding(tokens, self._kept("written")) if self._record else rows

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
            sums = moments.take_in_(sums, self.weight if training else None, total=self._over_all)
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
        coming_U = coming(fresh_V[classes_U])  # of the classes written alone: this is every step's
        if not bool(self._over_all(coming_U.any().long())):
            return classes_U, None
        given = self.weight, self.bias, self._rows_to_look_at, moments, training
        return classes_U, self._looks.take(*given, total=self._over_all)

    def _rows_to_look_at(self) -> Rows:
        bias = None if self.bias is None else self.bias.detach()
        return rows_of(self.weight.detach(), bias, self._occurrences())

    def _occurrences(self) -> Tensor:
        """[V] how often each class occurred in training, as far as is known; 0 of those that came later."""
        fresh_V, counts_V = self._kept("fresh"), self._kept("counts")
        occurrences_V = torch.where(fresh_V == TAUGHT, (counts_V - 1).clamp(min=1), counts_V - 1)
        return occurrences_V.masked_fill(coming(fresh_V) & (counts_V < self.T), 0)

    @torch.no_grad()
    def _start_moments(self, sums: Sums) -> None:
        """Moments afresh, of these class sums alone; and counts, of classes whose counts are not known."""
        self._keep("moments", no_moments(self.weight, self._rule.needs))
        with torch.autocast(self.weight.device.type, enabled=False):
            classes_U, _, occurrences_U = Moments(self._kept("moments")).take_in_(
                sums, self.weight, rate=1.0, total=self._over_all
            )
        if self._rule.sighted:
            unknown_U = self._kept("fresh")[classes_U] == TAUGHT
            self._kept("counts")[classes_U[unknown_U]] = 1 + occurrences_U[unknown_U]
        self._looks.forget()

    def is_taken_over(self) -> bool:
        """Whether all its rows come from before it was a head, by what it was told."""
        unknown = self._kept("fresh") == TRAINED if self._rule.sighted else self._kept("counts") == 1
        return not bool(unknown.any())

    def _is_told(self) -> bool:
        """Whether it was told anything of its classes but that they start."""
        return bool(self._over_all((self._kept("fresh") != TRAINED).any().long()))

    def _has_taught(self) -> bool:
        """Whether it was a trained layer before it was a head."""
        latest = self._kept("fresh").max()  # one look at V bytes, a quarter of a millisecond at 10^7
        return bool(self._over_all((latest >= TAUGHT).long()))

    def _is_trained(self, moments: Moments) -> bool:
        """Whether gradients have made its rows, as far as can be known; at its first steps they have not yet."""
        steps = moments.trained() and (moments.weight() >= READY or not self.attached)
        return steps or self._has_taught()

    def _biases(self) -> Tensor:
        """[V] of the layer, or what its rows hold of them."""
        return self._kept("lifted") if self.bias is None else self.bias

    def _claims(self) -> Claims:
        """What a new class may cost the trained ones."""
        check_claims(self.price, self.cap)
        together = 1 if self.cap is None else max(1, int(self._over_all(coming(self._kept("fresh")).sum())))
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
