"""What a writing head keeps of its classes beside their rows: counts, moments, who is new; birth and saved state.

Shapes: V classes, D features.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional.checks import Classes, check_rule
from firstsight.functional.inner_step import Objective
from firstsight.heads.head import check_parameters
from firstsight.heads.kept.averaged import Averaged, Kin
from firstsight.heads.kept.fresh import KEPT, TAUGHT, Looks, check_claims
from firstsight.heads.kept.known import Counts, known
from firstsight.heads.kept.moments import no_moments
from firstsight.heads.kept.state import (
    CLOCK,
    coded,
    decoded,
    known_well,
    other_settings,
    settings_of,
    state_errors,
    value_errors,
)
from firstsight.heads.objectives import stepping
from firstsight.heads.rules import RuleName, check_prior, find_rule
from firstsight.heads.steps.attachment import Pending
from firstsight.heads.steps.exchange import Group, Sums
from firstsight.heads.steps.watch import Watch

_BY_TRANSFORMERS = "_is_hf_initialized"  # what its from_pretrained notes on each tensor that it has loaded


class Stored(Averaged):
    """A head with the buffers that a write needs, their start and their saved state.

    Arguments, attributes and errors as :class:`firstsight.HebbianSoftmax`.
    """

    moments: Tensor
    written: Tensor
    settings: Tensor
    _version = 2  # of the layout of state_dict: what Attributes lists

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        T: float | None = None,
        gamma: float | None = None,
        bias: bool = True,
        *,
        rule: RuleName = "sight",
        objective: Objective = "l2",
        prior_count: float = 10.0,
        price: float = 1.0,
        cap: float | None = None,
        record: bool = False,
        **options: Any,
    ) -> None:
        self._named = rule, objective
        self._rule = stepping(find_rule(rule), rule, objective)
        self.T = self._rule.T if T is None else T
        self.gamma = self._rule.gamma if gamma is None else gamma
        self.prior_count, self.price, self.cap = prior_count, price, cap
        check_rule(self.T, self.gamma)
        check_prior(rule, prior_count, bias)
        check_claims(price, cap)
        self._record, self._looks, self._pending, self._watch = record, Looks(), Pending(), Watch()
        self._settled, self._kin = None, Kin()
        self._stepping = self._moves = False  # between the hooks of a step, and whether it moves the rows
        self._seen: list[Sums] | None = None  # under ``looking``
        self._group: Group = None  # of the last attachment
        super().__init__(in_features, num_classes, bias, **options)

    @property
    def rule(self) -> str:
        """The name of its rule; another rule is another layer."""
        return self._named[0]

    @property
    def objective(self) -> str:
        """The name of its inner objective, which is as fixed."""
        return self._named[1]

    def _keep(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            with torch.inference_mode(False):  # what is made under it cannot be trained on or loaded into later
                value = value.clone() if value.is_inference() else value
            self._keeper.register_buffer(self._prefix + name, value)
            if name == "counts":
                self._settled = value

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
            options: ``rule``, ``objective``, ``price``, ``cap`` and ``prior_count``, as the class.

        A layer that is trained has yet to be shown what it was trained on, before new classes come:
        ``with head.looking(): ...``.

        Raises:
            InputError: (a ``ValueError``) counts are missing or not as above, or see the class.
        """
        check_parameters(linear)
        classes, (V, D) = known(linear, counts, new), linear.weight.shape
        head = cls(D, V, T, gamma, linear.bias is not None, device="meta", **options)
        head.weight, head.bias = cast(nn.Parameter, linear.weight), cast(nn.Parameter | None, linear.bias)
        head._keep_nothing(*classes)
        return head

    def reset_parameters(self) -> None:
        """Start afresh: weight uniform in +-1/sqrt(D), bias 0, counts 1."""
        super().reset_parameters()
        self._looks.forget()
        self._keep_nothing(torch.ones(len(self.weight), dtype=torch.int64, device=self.weight.device))

    def _keep_nothing(self, counts: Tensor, fresh: Tensor | None = None) -> None:
        """Start what is kept beside the rows, with these counts, and classes that are what ``fresh`` says."""
        if fresh is not None and not self._rule.sighted:  # what is left to the gradient has a count of T then
            counts = counts.masked_fill(fresh == TAUGHT, known_well(self.T))
        self._keep("settings", coded(self._told(), self.weight.device))
        self._keep("counts", counts)
        self._keep("moments", no_moments(self.weight, self._rule.needs))
        self._keep("written", torch.zeros_like(self.weight.detach()) if self._record else None)
        for name in self._of_sight():
            given = fresh if name == "fresh" else None
            zeros = torch.zeros(len(self.weight), dtype=KEPT[name], device=self.weight.device)
            self._keep(name, zeros if given is None else given)

    def set_counts(self, counts: Counts, *, new: Classes = ()) -> None:
        """Say how well the classes of rows that are there already are known, as :meth:`from_linear`.

        For rows that came without counts: loaded by a library that does not call ``load_state_dict``, as the
        ``from_pretrained`` of transformers, from a model that had an ``nn.Linear`` there.

        Args:
            counts, new: as :meth:`from_linear`.

        Raises:
            InputError: (a ``ValueError``) they are not as there.
        """
        classes, looked = known(self, counts, new), self._kept("counts") is self._settled
        moments = self._kept("moments") if looked and self._rule.needs != "nothing" else None
        self._keep_nothing(*classes)
        self._keep("moments", moments)  # what it has been shown is no less true
        self._looks.forget()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """As of every module; but a cast of the model leaves the moments and the settings their precision."""
        names = ["settings"] if self._rule.needs == "nothing" else ["settings", "moments"]
        before, counts = {name: self._kept(name) for name in names}, self._kept("counts")
        with suppress(InputError):
            self._settle()  # while it can be told who has filled what
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if not value.is_meta:
                now = self._kept(name)
                self._keep(name, now if now.dtype.itemsize >= 4 else value.to(now.device))
        if self._settled is counts and not counts.is_meta:  # off the meta device there is nothing in it yet
            self._settled = self._kept("counts")
        return self

    def _settle(self) -> None:
        """Raise InputError unless what is kept was ever filled: there are loaders that leave raw memory in a buffer."""
        counts = self._kept("counts")
        if counts.is_meta:
            return
        if counts is not self._settled:
            self._check_filled()
        self._check_averaged()

    def _check_filled(self) -> None:
        counts = self._kept("counts")
        kept = {name: self._kept(name) for name in self._names()}
        own = kept | dict(self.named_parameters(recurse=False))
        loaded = {name for name, value in own.items() if getattr(value, _BY_TRANSFORMERS, False)}
        if self._keeper is not self:  # a model's own linear layer, which got its buffers after it was loaded
            loaded = set()
        missing = sorted(own.keys() - loaded) if loaded else []
        told, ours = decoded(kept["settings"]), self._told()
        if told is not None and told != ours and "settings" not in missing:
            raise InputError(
                other_settings(told, ours, "set T and gamma of the head to those, load, and change them then")
            )
        if missing or told is None:
            raise InputError(
                f"this head's {', '.join(missing) or 'state'} was never filled: it was loaded from a model that has no "
                "such thing, or of another size, or it was moved off the meta device and not started. Start it, "
                "head.reset_parameters(); or, if its rows are there, say how well its classes are known, "
                'head.set_counts("trained"), "new" or their occurrences; or load a state.'
            )
        if errors := value_errors(kept):
            raise InputError("this head's state cannot be its own: " + " ".join(errors))
        self._settled = counts

    def _names(self) -> list[str]:
        """Of all that is kept."""
        moments = [] if self._rule.needs == "nothing" else ["moments"]
        return ["counts", "settings", *moments, *self._of_sight()] + ["written"] * self._record

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.refresh_settings()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _told(self) -> dict[str, Any]:
        """What a state says of the write."""
        return settings_of(self.rule, self.T, self.gamma, self.objective)

    def refresh_settings(self) -> None:
        """T and gamma may have been set since."""
        self._settle()
        settings = self._kept("settings")
        if not settings.is_meta and decoded(settings) != self._told():
            settings[len(CLOCK) :] = coded(self._told(), settings.device)[len(CLOCK) :]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        errors = self.before_load(state_dict, prefix, local_metadata.get("version", 1))
        if errors:  # torch loads all the same what it can; this head stays as it was
            rest[-1].extend(errors)  # torch's list of messages
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if f"{prefix}counts" in state_dict:
            self._settled = self._kept("counts")

    def before_load(self, state_dict: dict[str, Any], prefix: str, version: int = 1) -> list[str]:
        """Why the state under ``prefix`` cannot be this layer's; the rows, it is taken, become others."""
        self._looks.forget()
        self._watch.note_loaded()
        if f"{prefix}{self._prefix}counts" in state_dict:  # states of before there were any settings
            state_dict.setdefault(f"{prefix}{self._prefix}settings", self._kept("settings"))
        return state_errors(
            state_dict,
            prefix,
            self._prefix,
            moments=None if self._rule.needs == "nothing" else self._kept("moments").shape,
            num_classes=len(self.weight),
            names=self._names(),
            ours=self._told(),
            record=self._record,
            version=version,
            newest=self._version,
        )

    def __getstate__(self) -> dict[str, Any]:
        with suppress(InputError):
            self._settle()  # while it can be told who has filled what
        own = {"_pending": Pending(), "_looks": Looks(), "_watch": Watch(), "_kin": Kin()}
        return {**super().__getstate__(), **own, "_seen": None, "_group": None}

    def extra_repr(self) -> str:
        """The sizes and the rule, for ``print``."""
        claims = "" if self.objective == "l2" else f", objective={self.objective}"
        claims += f", price={self.price}, cap={self.cap}" if self._rule.sighted else ""
        with suppress(InputError):
            self._settle()
        claims += "" if self._kept("counts") is self._settled else ", counts unknown"
        return f"{super().extra_repr()}, T={self.T}, gamma={self.gamma}, rule={self.rule}{claims}"
