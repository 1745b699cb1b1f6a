"""A small classifier, and how firstsight is put into a loop around it: rightly, and as one may get it wrong."""

import copy
import warnings
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

import firstsight
from firstsight import HebbianSoftmax

V, D, N, STEPS = 7, 6, 8, 12  # a warning comes within ten steps, and "another optimizer" with the next backward pass

RIGHT = "attach", "head.loss", "head.observe"
# And what is said of it.
WRONG = {
    "swapped alone": "attached to no optimizer",
    "loss outside": "shown nothing to write",
    "no labels": r"handle.labels\(y\) before the forward pass",
    "other labels": "the loss learns other labels",
    "another optimizer": "Does another optimizer step",
    "a copy trains": "attached to no optimizer",
    "evaluation": "it is in evaluation mode",
    "replaced later": "labels were handed over ten times and the output layer was not called",
}
_SWAPPED = "head.loss", "head.observe", "swapped alone", "loss outside", "a copy trains"


class Net(nn.Module):
    def __init__(self, out):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Tanh())
        self.out = out

    def forward(self, x):
        return self.out(self.body(x))


class Put:
    """firstsight put into a loop: ``attach`` is where its optimizer was built, ``loss`` where its loss was computed."""

    def __init__(self, way):
        torch.manual_seed(0)
        self.way, self.net = way, Net(HebbianSoftmax(D, V) if way in _SWAPPED else nn.Linear(D, V))
        self.handle = self.other = None
        if way == "a copy trains":
            self.other = torch.optim.SGD(self.net.parameters(), 0.1)
            self.net.out.attach(self.other)
            self.net = copy.deepcopy(self.net)
        self.stepped = [torch.zeros(0, dtype=torch.int64)]

    def attach(self, optimizer):
        out = self.net.out
        if self.way == "another optimizer":
            optimizer = self.other = torch.optim.SGD(out.parameters(), 0.1)
        if self.way not in _SWAPPED:
            self.handle = firstsight.attach(out, optimizer, counts="new")
        elif self.way not in ("swapped alone", "a copy trains"):
            out.attach(optimizer)
        if self.way == "replaced later":
            self.net.out = nn.Linear(D, V)

    def loss(self, x, y, criterion=F.cross_entropy, through=None):
        if self.way == "evaluation":
            self.net.eval()
        if self.way == "head.loss" and through is None:
            return self.net.out.loss(self.net.body(x), y)
        if self.way in ("head.loss", "head.observe") and through is None:
            hidden = self.net.body(x)
            logits = self.net.out(hidden)
            self.net.out.observe(logits, hidden, y)
            return criterion(logits, y)
        if self.handle is not None and self.way != "no labels":
            self.handle.labels(torch.where(y < 0, y, (y + 1) % V) if self.way == "other labels" else y)
        return criterion((self.net if through is None else through)(x), y)

    def step(self, *labels):
        """A step was taken, of these labels."""
        self.stepped += labels

    def counted(self):
        counts = self.net.out.counts if self.handle is None else self.handle.head.counts
        return counts.tolist()

    def expected(self):
        seen = torch.cat([labels.flatten() for labels in self.stepped])
        return (1 + torch.bincount(seen[seen >= 0], minlength=V)).tolist()


def batches(first=0, steps=STEPS, shape=(N,)):
    """Deterministic; activations of as many kinds as classes."""
    for step in range(first, first + steps):
        g = torch.Generator().manual_seed(step)
        y = torch.randint(V, shape, generator=g)
        yield torch.randn(V, D, generator=torch.Generator().manual_seed(99))[y] + torch.randn(*shape, D, generator=g), y


_SAID = "this head", "ten steps have", "ten times", "labels were handed", "an example that is NaN", "the optimizer, "


@contextmanager
def speaking():
    """What firstsight says of training is an error here; what others say is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for said in (*_SAID, "between two steps"):
            warnings.filterwarnings("error", message=said)
        yield


class Sam(torch.optim.Optimizer):
    """Two steps on one batch; the second is that of the optimizer inside."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            self.state[p]["was"] = p.clone()
            p.add_(p.grad / (p.grad.norm() + 1e-12), alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self.state:
            p.copy_(self.state[p]["was"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure):
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()
