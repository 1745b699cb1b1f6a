"""Random sequences of all that can be done to a Hebbian head, against a plain model of what should be.

200 sequences; more with the environment variable FIRSTSIGHT_FUZZ, as in FIRSTSIGHT_FUZZ=2000.
"""

import copy
import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firstsight import HebbianSoftmax, InputError

D, LR, MOMENTUM = 3, 0.05, 0.8
SEEDS = st.integers(0, 2**31)


class Plain:
    """A softmax layer, SGD with momentum and the rule, in numpy. Parameters are one [V, D + 1] table, bias last."""

    def __init__(self, table, T, gamma, objective):
        self.T, self.gamma, self.objective = T, gamma, objective
        self.table, self.counts = table, [1] * len(table)
        self.forget()

    def forget(self):
        self.grad, self.momentum, self.pending = None, None, []

    def loss(self, h, y):
        """The mean NLL and its gradient."""
        grad, total = np.zeros_like(self.table), 0.0
        counted = [n for n in range(len(y)) if y[n] != -100]
        for n in counted:
            x = np.append(h[n], 1.0)
            p = np.exp(self.table @ x - (self.table @ x).max())
            p /= p.sum()
            total -= np.log(p[y[n]]) / len(counted)
            p[y[n]] -= 1
            grad += np.outer(p, x) / len(counted)
        return total, grad

    def step(self, attached):
        if self.grad is None:
            return
        self.momentum = self.grad.copy() if self.momentum is None else MOMENTUM * self.momentum + self.grad
        self.table = self.table - LR * self.momentum
        if attached:
            self.write([pair for batch in self.pending for pair in batch])
            self.pending = []

    def write(self, pairs):
        before = self.table.copy()
        for i in {i for _, i in pairs if i != -100}:
            seen = [h for h, label in pairs if label == i]
            rate = max(1 / self.counts[i], self.gamma) if self.counts[i] < self.T else 0.0
            self.table[i, :D] += rate * sum(self.descent(before, i, h) for h in seen) / len(seen)
            self.counts[i] += len(seen)

    def descent(self, table, i, h):
        """Less the gradient of an example's inner loss."""
        if self.objective == "l2":
            return h - table[i, :D]
        z = table @ np.append(h, 1.0)
        return h if self.objective == "inner_product" else (1 - 1 / np.exp(z - z[i]).sum()) * h

    def grow(self, rows):
        self.table = np.concatenate([self.table, np.pad(rows, ((0, 0), (0, 1)))])
        self.counts += [1] * len(rows)
        more = ((0, len(rows)), (0, 0))
        self.grad = None if self.grad is None else np.pad(self.grad, more)
        self.momentum = None if self.momentum is None else np.pad(self.momentum, more)

    def shrink(self, kept):
        place = {old: new for new, old in enumerate(kept)}
        self.table, self.counts = self.table[kept], [self.counts[i] for i in kept]
        self.grad = None if self.grad is None else self.grad[kept]
        self.momentum = None if self.momentum is None else self.momentum[kept]
        self.pending = [[(h, place.get(i, -100)) for h, i in batch] for batch in self.pending]


class Clearing(torch.optim.SGD):
    """Clears the gradients in its step."""

    def step(self, closure=None):
        super().step()
        self.zero_grad()


class Wrapped:
    """What accelerate and the like put around an optimizer: it has no hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self.__dict__["optimizer"], name)

    @property
    def _optimizer_step_post_hooks(self):
        raise AttributeError("hooks")


class Life(RuleBasedStateMachine):
    @initialize(
        v=st.integers(2, 5),
        T=st.sampled_from([2, 6, 500]),
        gamma=st.sampled_from([0.0, 0.2]),
        kind=st.sampled_from(["plain", "fused", "wrapped", "clearing"]),
        objective=st.sampled_from(["l2", "softmax", "inner_product"]),
    )
    def begin(self, v, T, gamma, kind, objective):
        warnings.simplefilter("ignore")  # that what it does here is unwise is said, and is not what is tested
        torch.manual_seed(v)
        self.kind, self.fused, self.saved, self.waiting = kind, kind == "fused", None, None
        self.head = HebbianSoftmax(D, v, T, gamma, rule="paper", objective=objective, dtype=torch.float64)
        self.plain = Plain(self.table().copy(), T, gamma, objective)
        self.new_optimizer()

    def new_optimizer(self):
        kind = Clearing if self.kind == "clearing" else torch.optim.SGD
        self.optimizer = kind(self.head.parameters(), lr=LR, momentum=MOMENTUM, fused=self.fused)
        if self.kind == "wrapped":
            self.optimizer = Wrapped(self.optimizer)
        self.handle = self.head.attach(self.optimizer)

    def table(self):
        return torch.cat([self.head.weight, self.head.bias[:, None]], 1).detach().numpy()

    def batch(self, seed, n):
        rng = np.random.default_rng(seed)
        y = rng.integers(len(self.plain.table), size=n)
        y[rng.random(n) < 0.15] = -100
        return rng.normal(size=(n, D)), y

    @rule(seed=SEEDS, n=st.integers(0, 6), changed=st.booleans())
    def forward(self, seed, n, changed=False):
        h, y = self.batch(seed, n)
        hidden, target = torch.from_numpy(h.copy()), torch.from_numpy(y.copy())
        loss = self.head.loss(hidden, target)
        expected, grad = self.plain.loss(h, y)
        assert abs(loss.item() - expected) < 1e-9
        if changed:  # what metrics code does, before backward
            hidden.zero_()
            target.zero_()
        seen = list(zip(h, y.tolist(), strict=True)) if self.handle and self.head.training else []
        self.waiting = loss, grad, seen

    @precondition(lambda self: self.waiting)
    @rule()
    def backward(self):
        loss, grad, seen = self.waiting
        self.waiting = None
        loss.backward()
        self.plain.grad = grad if self.plain.grad is None else self.plain.grad + grad
        if self.handle:
            self.plain.pending.append(seen)

    @rule(seed=SEEDS, n=st.integers(1, 4))
    def look_at_the_input(self, seed, n):
        h, y = self.batch(seed, n)
        x = torch.from_numpy(h).requires_grad_()
        torch.autograd.grad(self.head.loss(x, torch.from_numpy(y)), x, create_graph=bool(seed % 2))

    @rule(seed=SEEDS, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def what_is_not_finite(self, seed, bad):
        h, y = self.batch(seed, 5)
        broken, left = h.copy(), y.copy()
        broken[1, 0], broken[3] = bad, bad
        if (y[[1, 3]] != -100).any():
            with pytest.raises(InputError, match="NaN or infinity"):
                self.head.write(torch.from_numpy(broken), torch.from_numpy(y))
        left[[1, 3]] = -100
        hidden = torch.from_numpy(h)
        logits = self.head.forward(hidden)
        self.head.observe(logits, torch.from_numpy(broken), torch.from_numpy(y))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(left), reduction="sum")
        loss = loss / max(1, (left != -100).sum())
        seen = list(zip(h, left.tolist(), strict=True)) if self.handle and self.head.training else []
        self.waiting = loss, self.plain.loss(h, left)[1], seen
        self.backward()

    @rule(seed=SEEDS)
    def forward_and_backward(self, seed):
        self.forward(seed, 5)
        self.backward()

    @rule()
    def step(self):
        self.optimizer.step()
        self.plain.step(attached=bool(self.handle))
        if self.kind == "clearing":
            self.plain.grad, self.plain.pending = None, []

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none):
        self.optimizer.zero_grad(set_to_none=set_to_none)
        self.plain.pending = []
        self.plain.grad = None if set_to_none or self.plain.grad is None else np.zeros_like(self.plain.grad)

    # torch's fused SGD leaves its momentum uninitialised where the very first step overflows
    @precondition(lambda self: not self.fused or self.plain.momentum is not None)
    @rule(seed=SEEDS, set_to_none=st.booleans())
    def skip(self, seed, set_to_none):
        """An overflow, as a GradScaler deals with it."""
        h, y = self.batch(seed, 4)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        scaler.scale(self.head.loss(torch.from_numpy(h), torch.from_numpy(y)) * torch.inf).backward()
        if self.plain.grad is None:
            self.plain.grad = np.zeros_like(self.plain.table)
        scaler.step(getattr(self.optimizer, "optimizer", self.optimizer))
        scaler.update()
        self.zero_grad(set_to_none)

    @precondition(lambda self: self.handle)  # an optimizer that is not attached keeps the old shape
    @rule(n=st.integers(1, 3))
    def grow(self, n):
        v, self.waiting = len(self.plain.table), None
        self.head.add_classes(n)
        rows = self.head.weight[v:].detach().numpy().copy()
        assert rows.shape == (n, D)
        assert 0 < abs(rows).max() <= D**-0.5
        self.plain.grow(rows)

    @precondition(lambda self: self.handle and len(self.plain.table) > 2)
    @rule(seed=SEEDS)
    def remove(self, seed):
        v, self.waiting = len(self.plain.table), None
        gone = np.random.default_rng(seed).choice(v, size=1 + seed % (v - 2), replace=False)
        self.head.remove_classes(gone.tolist())
        self.plain.shrink([i for i in range(v) if i not in gone])

    @rule(by=st.sampled_from(["assign", "set"]))
    def replace(self, by):
        """The parameters become others: refused, until there is an optimizer of the new ones."""
        self.waiting = None
        if by == "assign":
            self.head.load_state_dict({k: v.clone() for k, v in self.head.state_dict().items()}, assign=True)
        else:
            self.head.weight = torch.nn.Parameter(self.head.weight.detach().clone())
        h, y = self.batch(3, 4)
        if self.handle:
            with pytest.raises(InputError, match="not the parameter that was attached"):
                self.optimizer.step()
            if self.head.training:
                with pytest.raises(InputError, match="not the parameter that was attached"):
                    self.head.loss(torch.from_numpy(h), torch.from_numpy(y))
            self.handle.remove()
        self.head.zero_grad()
        self.new_optimizer()
        self.plain.forget()

    @rule(seed=SEEDS, n=st.integers(0, 4))
    def write(self, seed, n):
        h, y = self.batch(seed, n)
        self.head.write(torch.from_numpy(h), torch.from_numpy(y))
        self.plain.write(list(zip(h, y.tolist(), strict=True)))

    @rule()
    def toggle_mode(self):
        self.head.train(not self.head.training)

    @rule()
    def let_go_or_attach(self):
        if self.handle:
            self.handle.remove()
            self.handle = None
            self.plain.pending = []
        else:
            self.handle = self.head.attach(self.optimizer)

    @rule()
    def go_on_with_a_copy(self):
        self.head, self.waiting = copy.deepcopy(self.head), None
        self.new_optimizer()
        self.plain.forget()

    @rule()
    def save(self):
        file = io.BytesIO()
        torch.save({"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        self.saved = file.getvalue(), copy.deepcopy(self.plain)

    @precondition(lambda self: self.saved)
    @rule()
    def load(self):
        data, plain = self.saved
        state = torch.load(io.BytesIO(data), weights_only=True)
        self.plain, self.waiting = copy.deepcopy(plain), None
        self.plain.grad, self.plain.pending = None, []
        named = {"rule": "paper", "objective": plain.objective}
        self.head = HebbianSoftmax(D, len(plain.table), plain.T, plain.gamma, **named, dtype=torch.float64)
        self.new_optimizer()
        self.head.load_state_dict(state["head"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])

    @invariant()
    def the_head_is_what_it_should_be(self):
        np.testing.assert_allclose(self.table(), self.plain.table, rtol=1e-9, atol=1e-9)
        assert self.head.counts.tolist() == self.plain.counts


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=int(os.environ.get("FIRSTSIGHT_FUZZ", "200")), stateful_step_count=30, deadline=None
)
