"""Random sequences of all that can be done to a Hebbian head, against a plain model of what should be.

200 sequences; more with the environment variable FIRSTSIGHT_FUZZ, as in FIRSTSIGHT_FUZZ=2000.
"""

import copy
import io
import os

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firstsight import HebbianSoftmax

D, LR, MOMENTUM = 3, 0.05, 0.8
SEEDS = st.integers(0, 2**31)


class Plain:
    """A softmax layer, SGD with momentum and the rule, in numpy. Parameters are one [V, D + 1] table, bias last."""

    def __init__(self, table, T, gamma):
        self.T, self.gamma = T, gamma
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
        for i in {i for _, i in pairs if i != -100}:
            seen = [h for h, label in pairs if label == i]
            rate = max(1 / self.counts[i], self.gamma) if self.counts[i] < self.T else 0.0
            self.table[i, :D] += rate * (sum(seen) / len(seen) - self.table[i, :D])
            self.counts[i] += len(seen)

    def grow(self, rows):
        self.table = np.concatenate([self.table, np.pad(rows, ((0, 0), (0, 1)))])
        self.counts += [1] * len(rows)
        more = ((0, len(rows)), (0, 0))
        self.grad = None if self.grad is None else np.pad(self.grad, more)
        self.momentum = None if self.momentum is None else np.pad(self.momentum, more)


class Life(RuleBasedStateMachine):
    @initialize(
        v=st.integers(2, 5), T=st.sampled_from([2, 6, 500]), gamma=st.sampled_from([0.0, 0.2]), fused=st.booleans()
    )
    def begin(self, v, T, gamma, fused):
        torch.manual_seed(v)
        self.fused, self.saved, self.waiting = fused, None, None
        self.head = HebbianSoftmax(D, v, T, gamma, rule="paper", dtype=torch.float64)
        self.plain = Plain(self.table().copy(), T, gamma)
        self.new_optimizer()

    def new_optimizer(self):
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=LR, momentum=MOMENTUM, fused=self.fused)
        self.handle = self.head.attach(self.optimizer)

    def table(self):
        return torch.cat([self.head.weight, self.head.bias[:, None]], 1).detach().numpy()

    def batch(self, seed, n):
        rng = np.random.default_rng(seed)
        y = rng.integers(len(self.plain.table), size=n)
        y[rng.random(n) < 0.15] = -100
        return rng.normal(size=(n, D)), y

    @rule(seed=SEEDS, n=st.integers(0, 6))
    def forward(self, seed, n):
        h, y = self.batch(seed, n)
        loss = self.head.loss(torch.from_numpy(h), torch.from_numpy(y))
        expected, grad = self.plain.loss(h, y)
        assert abs(loss.item() - expected) < 1e-9
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

    @rule(seed=SEEDS)
    def forward_and_backward(self, seed):
        self.forward(seed, 5)
        self.backward()

    @rule()
    def step(self):
        self.optimizer.step()
        self.plain.step(attached=bool(self.handle))

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
        scaler.step(self.optimizer)
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
        self.head = HebbianSoftmax(D, len(plain.table), plain.T, plain.gamma, rule="paper", dtype=torch.float64)
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
