"""The rules of the write by name: the one list of them, from which the options of all commands are made too."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from firstsight.errors import InputError
from firstsight.heads.rule import Rule

RULES: dict[str, Rule] = {
    "paper": Rule(T=500, gamma=0.01),
    "scaled": Rule(scaled=True),
    "direction": Rule(scaled=True, kept=True),
    "centered": Rule(centered=True, scaled=True, kept=True),
    "sight": Rule(centered=True, scaled=True, kept=True, sighted=True),
    "whitened": Rule(whitened=True, scaled=True, kept=True),
    "additive": Rule(additive=True),
    "shrinkage": Rule(whitened=True, shrinking=True, calibrated=True),
}

if TYPE_CHECKING:  # the names once more, so that a wrong one is an error in an editor; the tests hold both together
    RuleName: TypeAlias = Literal[
        "paper", "scaled", "direction", "centered", "sight", "whitened", "additive", "shrinkage"
    ]
else:
    RuleName = Literal[tuple(RULES)]


def find_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RULES:
        raise InputError(f"rule is {name!r}; expected one of {', '.join(RULES)}.")
    return RULES[name]


def check_prior(name: str, prior_count: float, bias: bool) -> None:
    """Raise InputError unless ``prior_count`` is above 0, and there is a bias where the rule moves it."""
    if not prior_count > 0:
        raise InputError(f"prior_count is {prior_count}; expected how many examples the prior is worth, above 0.")
    if find_rule(name).moves_bias and not bias:
        raise InputError(f"the rule {name} moves the bias of what it writes; make the layer with bias=True.")
