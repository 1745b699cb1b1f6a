"""Steps whose gradients are sparse: the same as dense ones, at the cost of the rows they touch."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import firstsight
from firstsight import HebbianSampledSoftmax, InputError, SampledSoftmax
from firstsight.functional.sampled import sampled_cross_entropy, sampling

HEADS = [SampledSoftmax, HebbianSampledSoftmax]
OPTIMIZERS = {"sgd": lambda p: torch.optim.SGD(p, lr=0.3), "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1)}


def batch(step, N=14, V=150, D=6):
    g = torch.Generator().manual_seed(step)
    y = torch.randint(V, (N,), generator=g)
    y[N // 2] = -100
    return torch.randn(N, D, generator=g, dtype=torch.float64), y


@settings(max_examples=30, deadline=None)
@given(N=st.integers(1, 9), V=st.integers(2, 40), D=st.integers(1, 5), bias=st.booleans(), seed=st.integers(0, 99))
def test_the_gradient_is_the_dense_one_of_the_rows_in_use(N, V, D, bias, seed):
    g = torch.Generator().manual_seed(seed)
    h, w, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((N, D), (V, D), (V,)))
    y, how = torch.randint(V, (N,), generator=g), sampling("log_uniform", V, max(1, V // 3))
    sample, found = how.draw(seed, 0), []
    for sparse in (True, False):
        inputs = [x.clone().requires_grad_() for x in (h, w, b)]
        own = inputs[2] if bias else None
        loss, _ = sampled_cross_entropy(*inputs[:2], y, own, sample, how.log_inclusion, sparse=sparse)
        (2 * loss).backward()
        found.append([x.grad for x in inputs[: 3 if bias else 2]])
    for ours, dense in zip(*found, strict=True):
        assert ours.is_sparse == (ours is not found[0][0])
        if ours.is_sparse:
            assert ours._indices()[0].tolist() == sorted({*sample.tolist(), *y.tolist()})
        torch.testing.assert_close(ours.to_dense(), dense, rtol=1e-12, atol=1e-12)


def trained(kind, optimizer, sparse, steps, head=None, state=None, first=0, micro=1, clip=None):
    torch.manual_seed(0)
    head = kind(6, 150, samples=30, sparse=sparse, dtype=torch.float64) if head is None else head
    made = optimizer(head.parameters())
    if state is not None:
        made.load_state_dict(state)
    head.attach(made)
    for step in range(first, first + steps):
        h, y = batch(step)
        for part in range(micro):
            (head.loss(h[part::micro], y[part::micro]) / micro).backward()
        if clip:
            firstsight.clip_grad_norm_(head.parameters(), clip)
        made.step()
        made.zero_grad()
    return head, made


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_steps_equal_dense_ones(kind, optimizer, micro, clip):
    (sparse, of_sparse), (dense, of_dense) = (
        trained(kind, OPTIMIZERS[optimizer], way, 8, micro=micro, clip=clip) for way in (True, False)
    )
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)
    for ours, theirs in zip(of_sparse.state.values(), of_dense.state.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_sparse_adam_moves_the_rows_in_use_alone():
    """Against a loop: moments and correction of the rows that occur, by torch's own description of it."""
    torch.manual_seed(0)
    head = SampledSoftmax(6, 150, bias=False, samples=30, sparse=True, dtype=torch.float64)
    optimizer = torch.optim.SparseAdam(head.parameters(), lr=0.02)
    head.attach(optimizer)
    plain = copy.deepcopy(head)
    plain.sparse = False
    w, m, v = plain.weight.detach().clone(), torch.zeros(150, 6).double(), torch.zeros(150, 6).double()
    for step in range(5):
        h, y = batch(step)
        head.loss(h, y).backward()
        with torch.no_grad():
            plain.weight.copy_(w)
        plain.step.fill_(step)
        (grad,) = torch.autograd.grad(plain.loss(h, y), plain.weight)
        plain.step.fill_(step)  # a loss without an optimizer counts
        at = torch.unique(torch.cat([plain.sample(), y[y >= 0]]))
        m[at] += 0.1 * (grad[at] - m[at])
        v[at] += 0.001 * (grad[at] ** 2 - v[at])
        rate = 0.02 * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        w[at] -= rate * m[at] / (v[at].sqrt() + 1e-8)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(head.weight.detach(), w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_resumed_it_goes_on_bit_for_bit(kind):
    straight, _ = trained(kind, OPTIMIZERS["adagrad"], True, 6)
    half, optimizer = trained(kind, OPTIMIZERS["adagrad"], True, 3)
    again = kind(6, 150, samples=30, sparse=True, dtype=torch.float64)
    again.load_state_dict(half.state_dict())
    resumed, _ = trained(kind, OPTIMIZERS["adagrad"], True, 3, head=again, state=optimizer.state_dict(), first=3)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_a_step_saw_is_dropped_with_its_gradients():
    head = HebbianSampledSoftmax(6, 150, samples=30, sparse=True, rule="paper", dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    for clear in (lambda: optimizer.zero_grad(), lambda: optimizer.zero_grad(set_to_none=False)):
        head.loss(*batch(0)).backward()
        clear()
        optimizer.step()
        assert int(head.counts.sum()) == 150
    head.loss(*batch(0)).backward()
    optimizer.step()
    assert int(head.counts.sum()) == 150 + 13


def test_a_tied_embedding_is_sparse_too():
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        head = HebbianSampledSoftmax(6, 150, samples=30, sparse=sparse, record=True, dtype=torch.float64)
        optimizer = torch.optim.Adagrad(head.parameters(), lr=0.1)
        head.attach(optimizer)
        for step in range(4):
            _, y = batch(step)
            h = head.embedding(y.roll(1).clamp(min=0)).tanh()
            head.loss(h, y).backward()
            assert head.weight.grad.is_sparse == sparse
            firstsight.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        found.append(head.state_dict())
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("norm", [0.1, 1e9])
def test_clipping_is_that_of_torch(norm):
    torch.manual_seed(0)
    body, table = nn.Linear(4, 3).double(), nn.Embedding(9, 3, sparse=True).double()
    tokens, x = torch.tensor([1, 5, 1, 1]), torch.randn(4, 4).double()
    unused, found = nn.Parameter(torch.zeros(2)), []
    for sparse in (True, False):
        table.sparse = sparse
        body.zero_grad()
        table.zero_grad()
        for _ in range(2):  # twice: rows are there several times
            (body(x) * table(tokens)).square().sum().backward()
        parameters = [*body.parameters(), unused, table.weight]
        clip = firstsight.clip_grad_norm_ if sparse else nn.utils.clip_grad_norm_
        found.append([clip(parameters, norm), *(p.grad.to_dense() for p in parameters if p.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert float(firstsight.clip_grad_norm_([unused], 1.0)) == 0
    with pytest.raises(InputError, match="max_norm is -1; expected a norm above 0"):
        firstsight.clip_grad_norm_([unused], -1)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda p: torch.optim.RMSprop(p), "the optimizer is RMSprop, which refuses sparse gradients"),
        (lambda p: torch.optim.AdamW(p), "the optimizer is AdamW, which refuses"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "momentum is 0.9, which keeps every row"),
        (lambda p: torch.optim.Adagrad(p, weight_decay=0.1), "weight_decay is 0.1, which is of all rows"),
    ],
)
@pytest.mark.parametrize("kind", HEADS)
def test_optimizers_that_cannot(kind, optimizer, said):
    head = kind(4, 90, samples=9, sparse=True)
    with pytest.raises(InputError, match=said):
        head.attach(optimizer(head.parameters()))
    assert not head.attached


def test_a_setting_of_other_parameters_is_no_matter():
    head, body = SampledSoftmax(4, 90, samples=9, sparse=True), nn.Linear(4, 4)
    groups = [{"params": body.parameters(), "momentum": 0.9, "weight_decay": 0.1}, {"params": head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    head.attach(optimizer)
    head.loss(body(torch.randn(3, 4)), torch.arange(3)).backward()
    optimizer.step()


def test_nothing_of_a_step_is_of_size_v():
    """What is allocated while a step is taken, at two sizes of the table: the same, to the last few bytes."""
    from torch.profiler import ProfilerActivity, profile

    peaks = []
    for V in (2_000, 200_000):
        torch.manual_seed(0)
        head = HebbianSampledSoftmax(8, V, samples=64, sparse=True)
        optimizer = torch.optim.Adagrad(head.parameters(), lr=0.1)
        head.attach(optimizer)
        g = torch.Generator().manual_seed(1)
        for step in range(3):
            h, y = torch.randn(32, 8, generator=g), torch.randint(2_000, (32,), generator=g)
            if step < 2:  # the optimizer's first step asks what it is
                head.loss(h, y).backward()
                optimizer.step()
                optimizer.zero_grad()
                continue
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                head.loss(h, y).backward()
                firstsight.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        sizes = [e.self_cpu_memory_usage for e in seen.events() if e.self_cpu_memory_usage > 0]
        peaks.append(max(sizes))
    assert peaks[1] <= 1.5 * peaks[0]
