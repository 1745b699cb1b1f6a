"""Neural cache, MbPA and their mixture as plain loops over tokens and pairs, in float64; streams to try them on.

B streams, N tokens, V classes, D features, K neighbours; [...] is [N] or [B, N].
"""

import gc
import itertools
import math
import weakref
from collections import defaultdict
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from firstsight import HebbianSoftmax

EPS = 1e-3  # of MbPA's kernel
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # nats
SHAPES = [(1,), (13,), (60,), (3, 23), (2, 1), (1, 31), (0,), (2, 0)]
KINDS = ["random", "repeated", "grid", "equal"]
STEPS = [(1, 0.5), (2, 0.5), (2, 0.0), (2, 1.0), (3, 0.5), (3, 0.0), (3, 1.0)]  # beta first acts at the second
seeds = st.integers(0, 2**31)
blocks = st.sampled_from([None, 1, 3, 16, 64])


class PlainMemory:
    """A list of pairs for each stream; a token is scored on the last ``size`` of them, then joins."""

    def __init__(self, size):
        self.size = size
        self.pairs = defaultdict(list)

    def walk(self, hidden, target, score):
        """``score(pairs, h, y)`` of each token; ``empty`` says which tokens found no pair."""
        nll = torch.zeros(target.shape, dtype=torch.float64)
        self.empty = torch.zeros(target.shape, dtype=torch.bool)
        streams = [()] if target.dim() == 1 else [(b,) for b in range(len(target))]
        for b in streams:
            for n in range(target.shape[-1]):
                y = int(target[(*b, n)])
                if y == -100:
                    continue
                h = hidden[(*b, n)].double().tolist()
                visible = self.pairs[b][-self.size :]
                self.empty[(*b, n)] = not visible
                nll[(*b, n)] = score(visible, h, y)
                self.pairs[b].append((h, y))
        return nll


class PlainCache(PlainMemory):
    def __init__(self, size, theta):
        super().__init__(size)
        self.theta = theta

    def nll(self, hidden, target):
        return self.walk(hidden, target, self.score)

    def score(self, pairs, h, y):
        scores = [self.theta * sum(a * b for a, b in zip(h, h_j, strict=True)) for h_j, _ in pairs]
        right = [s for s, (_, y_j) in zip(scores, pairs, strict=True) if y_j == y]
        return log_sum_exp(scores) - log_sum_exp(right) if right else math.inf


class PlainMbPA(PlainMemory):
    """Adapts a copy of the rows for each token, by autograd.

    ``unsure`` says of the last call's tokens whether rounding in float32, of distances computed one by one, may take
    another pair for the K-th nearest.
    """

    def __init__(self, size, k, lr, beta, steps):
        super().__init__(size)
        self.k, self.lr, self.beta, self.steps = k, lr, beta, steps

    def nll(self, head, hidden, target):
        theta = head.weight.detach().double()
        bias = None if head.bias is None else head.bias.detach().double()
        sure = []

        def score(pairs, h, y):
            near, is_sure = self.neighbours(pairs, h)
            sure.append(is_sure)
            rows = self.adapted(theta, bias, near) if near else theta
            return -F.log_softmax(F.linear(double(h), rows, bias), 0)[y].item()

        nll = self.walk(hidden, target, score)
        self.unsure = torch.zeros(target.shape, dtype=torch.bool)
        self.unsure[target != -100] = ~torch.tensor(sure, dtype=torch.bool)
        return nll

    def neighbours(self, pairs, h):
        """(squared distance, pair) of the K nearest; at equal distance the more recent is first."""
        distances = [sum((a - b) ** 2 for a, b in zip(h, h_j, strict=True)) for h_j, _ in pairs]
        order = sorted(range(len(pairs)), key=lambda j: (distances[j], -j))
        last, next_ = ([distances[j] for j in order[self.k - 1 : self.k + 1]] + [math.inf, math.inf])[:2]
        return [(distances[j], pairs[j]) for j in order[: self.k]], last == next_ or next_ > last * (1 + 1e-5)

    def adapted(self, theta, bias, near):
        weights = double([1 / (EPS + d) for d, _ in near])
        weights = weights / weights.sum()
        h_KD = double([h for _, (h, _) in near])
        y_K = torch.tensor([y for _, (_, y) in near])
        rows = theta.clone()
        for _ in range(self.steps):
            rows.requires_grad_()
            nll_K = F.cross_entropy(F.linear(h_KD, rows, bias), y_K, reduction="none")
            (gradient,) = torch.autograd.grad((weights * nll_K).sum(), rows)
            rows = (rows - self.lr * gradient - self.beta * (rows - theta)).detach()
        return rows


def double(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def log_sum_exp(scores):
    top = max(scores)
    return top + math.log(math.fsum(math.exp(s - top) for s in scores))


def plain_mix(nll, parts):
    """Probabilities, token by token: parts is a list of (nll, empty, weight); an empty memory's weight is p_lm's."""
    mixed = torch.empty(nll.shape, dtype=torch.float64)
    for i in range(nll.numel()):
        present = [(part.flatten()[i].item(), weight) for part, empty, weight in parts if not empty.flatten()[i]]
        p = (1 - sum(weight for _, weight in present)) * math.exp(-nll.flatten()[i].item())
        p += sum(weight * math.exp(-value) for value, weight in present)
        mixed.view(-1)[i] = -math.log(p) if p else math.inf
    return mixed


def model_nll(head, hidden, target):
    """Of the head alone, [...]."""
    bias = None if head.bias is None else head.bias.detach().double()
    logits = F.linear(hidden.detach().double(), head.weight.detach().double(), bias)
    nll = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    return nll.view(target.shape)


def make_stream(seed, shape, v, d, kind="random", ignored=0.0, dtype=torch.float64, scale=1.0):
    """Activations [..., D] and labels [...]. "repeated" draws few keys again and again; "grid" has many equal
    distances, and exact ones; "equal" is one key only."""
    g = torch.Generator().manual_seed(seed)
    hidden = scale * torch.randn(*shape, d, generator=g, dtype=torch.float64)
    if kind == "repeated":
        hidden = scale * torch.randn(4, d, generator=g, dtype=torch.float64)[torch.randint(4, shape, generator=g)]
    elif kind == "grid":
        hidden = (2 * hidden).round() / 2
    elif kind == "equal":
        hidden = (scale * torch.randn(d, generator=g, dtype=torch.float64)).expand(*shape, d).contiguous()
    target = torch.randint(v, shape, generator=g)
    return hidden.to(dtype), target.masked_fill(torch.rand(shape, generator=g) < ignored, -100)


def make_head(seed, v, d, bias=True, dtype=torch.float64, kind="linear"):
    g = torch.Generator().manual_seed(seed + 1)
    head = nn.Linear(d, v, bias, dtype=dtype) if kind == "linear" else HebbianSoftmax(d, v, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return head


def pieces(hidden, target, cuts):
    """The stream in parts that end at ``cuts``; equal cuts make an empty part."""
    ends = [0, *sorted(min(cut, target.shape[-1]) for cut in cuts), target.shape[-1]]
    spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
    return [(hidden[..., span, :], target[..., span]) for span in spans]


@contextmanager
def no_graph():
    """Fails where anything from within is still kept for a backward pass at the end."""

    class Saved:
        """Lives as long as the graph that it was saved for."""

    alive = weakref.WeakSet()

    def pack(tensor):
        saved = Saved()
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        yield
    gc.collect()
    assert not alive, f"{len(alive)} tensors are kept for a backward pass"


def assert_nll(ours, reference, tolerance=None, skip=None):
    """Absolute, in nats; inf where the reference has inf."""
    if tolerance is None:
        tolerance = TOLERANCE[ours.dtype]
    assert ours.shape == reference.shape
    assert not ours.requires_grad
    assert not ours.isnan().any()
    ours = ours.cpu().double()
    if skip is not None:
        ours, reference = ours[~skip], reference[~skip]
    assert torch.equal(ours.isinf(), reference.isinf()), (ours, reference)
    torch.testing.assert_close(ours, reference.double(), rtol=1e-6, atol=tolerance)
