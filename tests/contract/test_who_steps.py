"""Optimizers that keep what is written, and those that take it back, never come to it, or cannot grow."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from contract_heads import D, V, attached, batch, drawn, sgd
from torch import nn

from firstsight import InputError


class Masters(torch.optim.SGD):
    """Steps copies in float32 and copies them back."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.masters = [p.detach().float().clone().requires_grad_() for g in self.param_groups for p in g["params"]]
        self.inner = torch.optim.SGD(self.masters, lr)

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for g in self.param_groups for p in g["params"]]
        for parameter, master in zip(parameters, self.masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        self.inner.step()
        for parameter, master in zip(parameters, self.masters, strict=True):
            parameter.copy_(master)


class Lookahead(torch.optim.SGD):
    """Goes back half way every five steps."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("slow", parameter.clone())
                state["steps"] = state.get("steps", 0) + 1
        super().step()
        for parameter, state in self.state.items():
            if state["steps"] % 5 == 0:
                state["slow"] += 0.5 * (parameter - state["slow"])
                parameter.copy_(state["slow"])


class Averaging(torch.optim.SGD):
    """Its weights are what it has averaged, as schedule-free ones are."""

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in [p for g in self.param_groups for p in g["params"]]:
            state = self.state[parameter]
            z = state.setdefault("z", parameter.clone())
            state["k"] = state.get("k", 0) + 1
            parameter.lerp_(z, 1 / state["k"]).sub_(parameter.grad, alpha=self.defaults["lr"])
            z.sub_(parameter.grad, alpha=self.defaults["lr"])


@pytest.mark.parametrize("kind", [Masters, Lookahead, Averaging])
def test_an_optimizer_that_takes_the_write_back_is_named_at_the_first_step(hebbian, kind):
    head, optimizer = attached(hebbian, optimizer=lambda head, lr: kind(head.parameters(), lr))
    state = torch.get_rng_state()
    head.loss(*batch()).backward()
    with pytest.warns(UserWarning, match=f"{kind.__name__}, keeps weights of its own"):
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.loss(*batch()).backward()
        optimizer.step()


def test_what_goes_back_between_the_steps_is_named(hebbian):
    """A wrapper that nobody told the head of."""
    head, optimizer = attached(hebbian)
    slow = head.weight.detach().clone()
    head.loss(*batch()).backward()
    optimizer.step()
    with torch.no_grad():
        head.weight.lerp_(slow, 0.5)
    head.loss(*batch()).backward()
    with pytest.warns(UserWarning, match="between two steps of the optimizer rows went back"):
        optimizer.step()


@pytest.mark.parametrize(
    "kind",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adadelta,
        torch.optim.Rprop,
        torch.optim.ASGD,
        torch.optim.Adafactor,
    ],
)
def test_the_optimizers_of_torch_are_not(hebbian, kind):
    head, optimizer = attached(hebbian, optimizer=lambda head, lr: kind(head.parameters(), lr=lr))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(12):
            optimizer.zero_grad()
            head.loss(*batch(seed=seed)).backward()
            optimizer.step()


@pytest.mark.parametrize("what", ["add_classes", "remove_classes"])
@pytest.mark.parametrize("kind", ["lbfgs", "lookahead around adam", "shared"])
def test_growth_that_an_optimizer_cannot_follow_changes_nothing(make, kind, what):
    head = drawn(make(D, V, dtype=torch.float64))
    other = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    if kind == "lbfgs":
        optimizer = torch.optim.LBFGS([other, *head.parameters()])
    else:
        kinds = {"lookahead around adam": Around, "shared": Sharing}
        optimizer = kinds[kind](torch.optim.Adam([other, *head.parameters()], lr=0.1))
    head.attach(optimizer)
    h, y = batch()

    def closure():
        optimizer.zero_grad()
        loss = head.loss(h, y) + other.square().sum()
        loss.backward()
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            closure()
            optimizer.step(closure)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="what a new row of it starts with is not known here"):
        head.add_classes(2) if what == "add_classes" else head.remove_classes([1])
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    closure()
    optimizer.step(closure)


class Around(torch.optim.Optimizer):
    """Keeps an optimizer inside, and a slow copy of the weights for itself; has no hooks of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups, self.state = optimizer.param_groups, {}

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        self.optimizer.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                slow = self.state.setdefault(parameter, {}).setdefault("slow", parameter.detach().clone())
                slow += 0.5 * (parameter.detach() - slow)


class Sharing(torch.optim.Optimizer):
    """Has hooks, and leaves the work to one that it keeps."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.local = optimizer

    def step(self, closure=None):
        self.local.step()


def test_optimizers_are_freed_and_their_hooks_with_them(make):
    head = make(D, V)
    dead = []
    for _ in range(20):
        optimizer = sgd(head)
        head.attach(optimizer)
        head.loss(*batch(dtype=torch.float32)).backward()
        optimizer.step()
        dead.append(weakref.ref(optimizer))
    del optimizer
    gc.collect()
    assert [one() for one in dead] == [None] * 20
    assert not head.attached
    assert not any(one._backward_hooks or one._post_accumulate_grad_hooks for one in head.parameters())


def test_an_optimizer_that_is_none_of_torchs(make):
    class Own:
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters)}]

        def step(self):
            pass

    head = make(D, V)
    with pytest.raises(InputError, match=r"a Own, which has no hooks.*head.write\(h, y\)"):
        head.attach(Own(head.parameters()))
