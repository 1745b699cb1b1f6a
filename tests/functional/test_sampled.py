"""The sampled softmax against the full one, and its samples against what is said of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstsight import HebbianSampledSoftmax, InputError, SampledSoftmax, Softmax
from firstsight.functional.sampled import sampled_cross_entropy, sampling

SAMPLERS = {"log_uniform": "log_uniform", "uniform": "uniform", "occurrences": 3 * torch.arange(50).flip(0) ** 2}


def data(N, V, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    h, w, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((N, D), (V, D), (V,)))
    return h, w, b, torch.randint(V, (N,), generator=g)


def by_hand(sampler, V, S):
    """min(1, c p), with c found by halving."""
    rank = torch.arange(V, dtype=torch.float64)
    known = {"uniform": torch.ones(V, dtype=torch.float64), "log_uniform": ((rank + 2) / (rank + 1)).log()}
    share = known[sampler] if isinstance(sampler, str) else sampler.double() + 1
    low, high = 0.0, S * V / float(share.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * share).clamp(max=1).sum()) < S else (low, middle)
    return (high * share).clamp(max=1)


@settings(max_examples=60, deadline=None)
@given(
    V=st.integers(1, 400),
    part=st.floats(0, 1),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["log_uniform", "uniform", "n"]),
)
def test_inclusion_and_samples_of_any_size(V, part, seed, kind):
    S = max(1, round(part * V))
    sampler = torch.randint(100, (V,), generator=torch.Generator().manual_seed(seed)) if kind == "n" else kind
    how = sampling(sampler, V, S)
    expected = by_hand(sampler, V, S)
    torch.testing.assert_close(how.inclusion(), expected, rtol=1e-7, atol=1e-12)
    sample = how.draw(seed, 3)
    assert len(sample) == S
    assert int(sample[0]) >= 0
    assert int(sample[-1]) < V
    # Madow's own way: the class in whose piece of the line each point falls, but where a point is on a border.
    start = torch.rand((), generator=torch.Generator().manual_seed(seed * 1_000_003 + 3), dtype=torch.float64)
    ends, points = expected.cumsum(0), torch.arange(S, dtype=torch.float64) + start
    clear = (ends[:, None] - points).abs().min(0).values > 1e-6
    by_line = torch.searchsorted(ends, points).clamp(max=V - 1)
    assert torch.equal(sample[clear], by_line[clear])


@settings(max_examples=40, deadline=None)
@given(N=st.integers(1, 9), V=st.integers(2, 30), D=st.integers(1, 6), bias=st.booleans(), weighted=st.booleans())
def test_of_all_classes_it_is_the_full_softmax(N, V, D, bias, weighted):
    h, w, b, y = data(N, V, D, seed=N * V)
    y[0] = -100
    samples = sampling("uniform", V, V)
    sample = samples.draw(seed=1, step=2)
    assert sample.tolist() == list(range(V))
    class_weight = torch.rand(V, dtype=torch.float64) + 0.1 if weighted else None
    found = []
    for way in ("sampled", "full"):
        inputs = [x.clone().requires_grad_() for x in (h, w, b)]
        if way == "sampled":
            given_bias = inputs[2] if bias else None
            loss, each = sampled_cross_entropy(
                inputs[0], inputs[1], y, given_bias, sample, samples.log_inclusion, class_weight=class_weight
            )
        else:
            logits = F.linear(inputs[0], inputs[1], inputs[2] if bias else None)
            loss = F.cross_entropy(logits, y, weight=class_weight) if N > 1 else logits.sum() * 0
            expected = F.cross_entropy(logits, y, reduction="none")
        (loss + 0 * inputs[2].sum()).backward()
        found.append([loss, *(x.grad for x in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(each, expected.detach())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_class_is_in_a_sample_as_often_as_is_said(sampler):
    V, S, draws = 50, 17, 20_000
    samples = sampling(SAMPLERS[sampler], V, S)
    of_V = samples.inclusion()
    torch.testing.assert_close(of_V, by_hand(SAMPLERS[sampler], V, S), rtol=1e-9, atol=1e-12)
    assert math.isclose(float(of_V.sum()), S)
    assert ((of_V > 0) & (of_V <= 1)).all()
    times_V = torch.zeros(V)
    for step in range(draws):
        sample = samples.draw(0, step)
        assert len(sample) == S
        times_V[sample] += 1
    error_V = (of_V * (1 - of_V) / draws).sqrt()
    assert ((times_V / draws - of_V).abs() <= 5 * error_V + 1e-12).all()
    if sampler != "uniform":
        assert bool((of_V[:-1] >= of_V[1:]).all()), "frequent classes come first"


def test_samples_are_different_classes_at_the_size_of_a_vocabulary():
    how = sampling("log_uniform", 267_735, 8192)
    samples = [how.draw(3, step) for step in range(3)]
    assert [len(sample.unique()) for sample in samples] == [8192] * 3
    assert torch.equal(samples[1], how.draw(3, 1))
    assert not torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], how.draw(4, 0))
    assert (how.inclusion()[:100] == 1).all(), "the most frequent are in every sample"


@pytest.mark.parametrize("sampler", ["uniform", "log_uniform"])
def test_the_gradient_comes_nearer_with_more_samples(sampler):
    V = 400
    h, w, b, y = data(30, V, 8)
    w = 0.3 * w
    full = [x.clone().requires_grad_() for x in (h, w, b)]
    F.cross_entropy(F.linear(*full), y).backward()
    errors = []
    for S in (V // 8, V // 4, V // 2):
        how, error = sampling(sampler, V, S), 0.0
        for step in range(40):
            ours = [x.clone().requires_grad_() for x in (h, w, b)]
            sampled_cross_entropy(*ours[:2], y, ours[2], how.draw(0, step), how.log_inclusion)[0].backward()
            error += sum(float((a.grad - c.grad).square().sum()) for a, c in zip(ours, full, strict=True))
        errors.append(error)
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2] > 0


def test_a_target_in_the_sample_counts_once():
    h, w, b, y = data(4, 6, 3)
    how = sampling("uniform", 6, 3)
    sample = torch.tensor([0, 2, 5])
    _, each = sampled_cross_entropy(h, w, torch.tensor([0, 2, 1, 5]), b, sample, how.log_inclusion)
    z = F.linear(h, w, b) - how.inclusion().log()
    kept = [[0, 2, 5], [0, 2, 5], [0, 1, 2, 5], [0, 2, 5]]
    expected = [z[n, kept[n]].logsumexp(0) - z[n, label] for n, label in enumerate([0, 2, 1, 5])]
    torch.testing.assert_close(each, torch.stack(expected))
    del y


HEADS = [SampledSoftmax, HebbianSampledSoftmax]


def trained(kind, steps, head=None, first=0, micro=1, **options):
    torch.manual_seed(0)
    head = kind(6, 200, samples=40, **options) if head is None else head
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    for step in range(first, first + steps):
        g = torch.Generator().manual_seed(step)
        h, y = torch.randn(12, 6, generator=g), torch.randint(200, (12,), generator=g)
        for part in range(micro):
            (head.loss(h[part::micro], y[part::micro]) / micro).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_trained_on_a_sample_and_read_with_all(kind):
    head = trained(kind, 3)
    h, y = torch.randn(5, 6), torch.arange(5)
    full = F.cross_entropy(head(h), y)
    assert not torch.isclose(head.loss(h, y), full)
    torch.testing.assert_close(head.nll(h, y).mean(), full)
    torch.testing.assert_close(head.eval().loss(h, y), full)
    head.train()
    with torch.no_grad():
        torch.testing.assert_close(head.loss(h, y), full)
    head.weight.grad, sample = None, head.sample()
    head.loss(h, y).backward()
    moved = head.weight.grad.any(1).nonzero()[:, 0].tolist()
    assert set(moved) == set(sample.tolist()) | set(y.tolist())


@pytest.mark.parametrize("kind", HEADS)
def test_samples_go_by_the_step(kind):
    straight = trained(kind, 6)
    assert int(straight.step) == 6
    half = trained(kind, 3)
    again = kind(6, 200, samples=40)
    again.load_state_dict(half.state_dict())
    resumed = trained(kind, 3, head=again, first=3)
    assert all(
        torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    parts = trained(kind, 6, micro=3)
    torch.testing.assert_close(parts.weight, straight.weight)
    alone = SampledSoftmax(6, 200, samples=40)
    first = alone.sample()
    alone.loss(torch.randn(2, 6), torch.tensor([1, 2]))
    assert not torch.equal(first, alone.sample())


def test_every_class_of_the_batch_is_written():
    head = trained(HebbianSampledSoftmax, 4, rule="paper")
    assert head.counts.sum() == 200 + 48
    last = torch.Generator().manual_seed(3)
    h, y = torch.randn(12, 6, generator=last), torch.randint(200, (12,), generator=last)
    once = (head.counts[y] == 2).nonzero()[:, 0]
    assert len(once)
    assert torch.equal(head.weight[y[once]], h[once]), "a first sight writes a row outright, drawn or not"
    assert set(y[once].tolist()) - set(sampling("log_uniform", 200, 40).draw(0, 3).tolist())


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform", torch.arange(200)])
def test_classes_come_and_go(sampler):
    head = trained(SampledSoftmax, 2, sampler=sampler)
    head.add_classes(5)
    head.loss(torch.randn(3, 6), torch.tensor([0, 204, 7])).backward()
    head.remove_classes([3, 204])
    assert len(head.inclusion()) == 203
    head.zero_grad()
    head.loss(torch.randn(2, 6), torch.tensor([0, 202])).backward()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"sampler": "zipf"}, "sampler is 'zipf'; expected 'log_uniform'"),
        ({"sampler": torch.ones(3)}, r"sampler is \[3\]; expected \[9\] occurrences"),
        ({"sampler": torch.full((9,), -1)}, "each 0 or more"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(InputError, match=said):
        SampledSoftmax(4, 9, **options)


def test_what_a_sample_cannot_do():
    head = SampledSoftmax(4, 90, samples=9)
    with pytest.raises(InputError, match="a term over all classes"):
        head.loss(torch.randn(2, 4), torch.tensor([1, 2]), label_smoothing=0.1)
    with pytest.raises(InputError, match=r"0 to 89"):
        head.loss(torch.randn(2, 4), torch.tensor([1, 90]))
    linear = head.to_linear()
    assert type(linear) is nn.Linear
    assert isinstance(head, Softmax)
