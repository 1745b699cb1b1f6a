"""The adaptive softmax against torch's own, and its write against a loop in float64."""

import copy
import math

import pytest
import torch
from torch import nn

from firstsight import AdaptiveSoftmax, HebbianAdaptiveSoftmax, InputError

SHAPES = [(6, 9, (4,), 2.0), (16, 50, (10, 30), 4.0), (7, 23, (1, 2, 20), 1.5), (3, 8, (2, 7), 1.5)]


def batch(D, V, n=13, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=g, dtype=torch.float64), torch.randint(V, (n,), generator=g)


def torchs(head, D, V, cutoffs, div_value):
    """torch's layer with the weights of ours."""
    other = nn.AdaptiveLogSoftmaxWithLoss(D, V, list(cutoffs), div_value=div_value, dtype=torch.float64)
    with torch.no_grad():
        other.head.weight.copy_(head.first.weight)
        for theirs, ours in zip(other.tail, head.tails, strict=True):
            theirs[0].weight.copy_(ours.projection)
            theirs[1].weight.copy_(ours.softmax.weight)
    return other


@pytest.mark.parametrize(("D", "V", "cutoffs", "div_value"), SHAPES)
@pytest.mark.parametrize("n", [1, 2, 300])
def test_it_is_torchs(D, V, cutoffs, div_value, n):
    head = AdaptiveSoftmax(D, V, bias=False, cutoffs=cutoffs, div_value=div_value, dtype=torch.float64)
    assert head.cutoffs == cutoffs
    assert head.num_classes == V
    other = torchs(head, D, V, cutoffs, div_value)
    h, y = batch(D, V, n)
    h.requires_grad_()
    output, loss = other(h, y)
    torch.testing.assert_close(head.loss(h, y), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.nll(h, y), -output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.log_prob(h), other.log_prob(h), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.topk(h, 1).indices[:, 0], other.predict(h))
    torch.testing.assert_close(head(h).exp().sum(-1), torch.ones(n, dtype=torch.float64), rtol=1e-12, atol=0)
    ours = torch.autograd.grad(head.loss(h, y), (h, head.first.weight, *head.tails.parameters()))
    order = (h, other.head.weight, *(p for tail in other.tail for p in (tail[0].weight, tail[1].weight)))
    # torch names the projection first, as we do; what a batch without a token of a cluster leaves out is zero here
    theirs = torch.autograd.grad(loss, order, allow_unused=True)
    for mine, its, like in zip(ours, theirs, order, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(like) if its is None else its, rtol=1e-11, atol=1e-12)


def by_hand(head, h, y, T, gamma):
    """The paper's rule, a class at a time: rows [V, *] by class before the write, after it, and the counts."""
    starts = (0, *head.cutoffs, head.num_classes)
    rows, counts = [], head.counts.clone()
    for v in range(head.num_classes):
        k = sum(v >= start for start in starts[1:-1])  # none has come later
        layer = head.first if k == 0 else head.tails[k - 1].softmax
        row = layer.weight[v - starts[k]].detach().clone()
        own = [
            x if k == 0 else head.tails[k - 1].projection.detach() @ x
            for x, label in zip(h, y, strict=True)
            if label == v
        ]
        if own and counts[v] < T:
            rate = max(1 / int(counts[v]), gamma)
            row = rate * torch.stack(own).mean(0) + (1 - rate) * row
        counts[v] += len(own)
        rows.append(row)
    return rows, counts


def rows_of(head):
    layers = [head.first.weight[: head.cutoffs[0]], *(tail.softmax.weight for tail in head.tails)]
    return [row.detach().clone() for layer in layers for row in layer]


@pytest.mark.parametrize(("D", "V", "cutoffs", "div_value"), SHAPES)
def test_the_write_is_a_loop_in_float64(D, V, cutoffs, div_value):
    T, gamma = 5, 0.3
    options = {"cutoffs": cutoffs, "div_value": div_value, "rule": "paper", "T": T, "gamma": gamma}
    head = HebbianAdaptiveSoftmax(D, V, **options, dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    plain = copy.deepcopy(head)
    head.attach(optimizer)
    for step in range(12):
        (one, two), whole = (batch(D, V, 5, 2 * step), batch(D, V, 3, 2 * step + 1)), batch(D, V, 0)
        optimizer.zero_grad()
        for h, y in (one, two):  # gradient accumulation
            (head.loss(h, y) * len(y) / 8).backward()
            whole = torch.cat([whole[0], h]), torch.cat([whole[1], y])
        plain.load_state_dict(head.state_dict())
        for ours, parameter in zip(plain.parameters(), head.parameters(), strict=True):
            ours.data -= 0.1 * parameter.grad
        # An activation is written as it was when it was seen: projected by the weights before the step.
        seen = copy.deepcopy(plain)
        for ours, before in zip(seen.tails, head.tails, strict=True):
            ours.projection.data.copy_(before.projection)
        wanted, counts = by_hand(seen, *whole, T, gamma)
        stand_ins = plain.first.weight[cutoffs[0] :].detach().clone()
        optimizer.step()
        for ours, theirs in zip(rows_of(head), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert torch.equal(head.counts, counts)
        torch.testing.assert_close(head.first.weight[cutoffs[0] :], stand_ins, rtol=1e-12, atol=1e-12)
    assert (head.counts > T).any()
    assert (head.counts <= T).any() or V < 10


@pytest.mark.parametrize("rule", ["sight", "paper"])
def test_a_write_in_service(rule):
    head = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), rule=rule, T=50, gamma=0.1, dtype=torch.float64)
    h, y = batch(6, 20)
    before = copy.deepcopy(head)
    if rule == "paper":
        wanted, counts = by_hand(head, h, y, 50, 0.1)
        head.write(h, y)
        for ours, theirs in zip(rows_of(head), wanted, strict=True):
            torch.testing.assert_close(ours, theirs)
    else:
        head.write(h, y)
        counts = 1 + torch.bincount(y, minlength=20)
    assert torch.equal(head.counts, counts)
    assert torch.equal(head.first.weight[5:], before.first.weight[5:])
    state = copy.deepcopy(head.state_dict())
    for bad in (torch.nan, torch.inf):
        wrong = h.clone()
        wrong[-1, 0] = bad  # one cluster alone sees it, and none of them is written
        with pytest.raises(InputError, match="with NaN or infinity"):
            head.write(wrong, y)
    with pytest.raises(InputError, match="label 20; expected 0 to 19"):
        head.write(h, y + 20 - y.max())
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("T", [None, 10**6, math.inf])
def test_a_class_that_comes_to_a_trained_head(T):
    """It comes to the first cluster, and is found there; the others are hardly harmed."""
    torch.manual_seed(0)
    means = 3 * torch.randn(41, 32)
    head = HebbianAdaptiveSoftmax(32, 40, cutoffs=(10,), div_value=2, T=T)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    handle = head.attach(optimizer)
    for _ in range(300):
        y = torch.randint(40, (128,))
        optimizer.zero_grad()
        head.loss(means[y] + torch.randn(128, 32), y).backward()
        optimizer.step()
    handle.remove()
    frequent = means[torch.arange(10)] + torch.randn(10, 32)
    before = head.log_prob(frequent)[:, :10].detach()
    head.add_classes(1)
    assert head.num_classes == 41
    head.write(means[40:] + torch.randn(1, 32), torch.tensor([40]))
    found = head.topk(means[40] + torch.randn(200, 32), 1).indices[:, 0]
    assert (found == 40).double().mean() > 0.5
    torch.testing.assert_close(head.log_prob(frequent)[:, :10], before, rtol=0, atol=0.1)
    rare = torch.arange(10, 40)
    assert (head.topk(means[rare] + torch.randn(30, 32), 1).indices[:, 0] == rare).double().mean() > 0.8


def test_it_may_look_at_what_it_was_trained_on():
    head = HebbianAdaptiveSoftmax(4, 12, cutoffs=(4, 8), div_value=1)
    h, y = torch.randn(200, 4), torch.randint(12, (200,))
    with pytest.warns(UserWarning, match="all its classes count as those of a layer that starts"), head.looking():
        head.loss(h, y)
    assert all(bool(layer.moments.any()) for layer in (head.first, *(tail.softmax for tail in head.tails)))


def test_classes_come_and_go_in_their_clusters():
    head = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), dtype=torch.float64)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    head.attach(optimizer)

    def train(seed):
        h, y = batch(6, head.num_classes, 40, seed)
        optimizer.zero_grad()
        head.loss(h, y).backward()
        optimizer.step()

    train(0)
    before, counts = rows_of(head), head.counts
    head.add_classes(2)
    head.remove_classes([0, 6, 7, 19])
    assert (head.num_classes, head.cutoffs) == (18, (4, 9))
    kept = [v for v in range(20) if v not in (0, 6, 7, 19)]
    assert all(torch.equal(a, before[v]) for a, v in zip(rows_of(head), kept, strict=False))
    assert head.counts.tolist() == [*counts[kept].tolist(), 1, 1]
    train(1)
    h, _ = batch(6, 18)
    values, classes = head.topk(h, 18)
    wanted = head.log_prob(h).topk(18)
    torch.testing.assert_close(values, wanted.values)
    assert torch.equal(classes, wanted.indices)
    torch.testing.assert_close(head.log_prob(h).exp().sum(-1), torch.ones(len(h), dtype=torch.float64))
    torch.testing.assert_close(head.nll(h, torch.full((13,), 17)), -head.log_prob(h)[:, 17])
    torch.testing.assert_close(head.embedding(torch.tensor([17])), head.first.weight[-1:])
    state = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match=r"all of the cluster from 4 to 8.*Leave one of them"):
        head.remove_classes(range(4, 9))
    with pytest.raises(InputError, match="expected labels from 0 to 17"):
        head.remove_classes([18])
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())
    other = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), dtype=torch.float64)
    said = r"of 18 classes with cutoffs \[4, 9\].*num_classes=16, cutoffs=\[4, 9\], then add_classes\(2\)"
    with pytest.raises(RuntimeError, match=said):
        other.load_state_dict(head.state_dict())
    fresh = HebbianAdaptiveSoftmax(6, 16, cutoffs=(4, 9), dtype=torch.float64)
    fresh.add_classes(2)
    fresh.load_state_dict(head.state_dict())
    h, y = batch(6, 18)
    assert torch.equal(fresh.nll(h, y), head.nll(h, y))


@pytest.mark.parametrize("record", [False, True])
def test_the_tied_embedding(record):
    """In the tail k: the row's way back through the projection; without what was written, where that is recorded."""
    head = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), div_value=2, record=record, dtype=torch.float64)
    before = head.embedding(torch.arange(20)).detach()
    wanted = [head.first.weight[:5], *(tail.softmax.weight @ tail.projection for tail in head.tails)]
    torch.testing.assert_close(before, torch.cat(wanted).detach())
    # As long as those of the first cluster: a projection of orthonormal rows changes no length.
    torch.testing.assert_close(before[5:12].norm(dim=1), head.tails[0].softmax.weight.norm(dim=1).detach())
    head.write(*batch(6, 20))
    after = head.embedding(torch.arange(20).view(4, 5)).detach()
    assert after.shape == (4, 5, 6)
    assert torch.allclose(after.view(20, 6), before) == record
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.embedding(torch.arange(20)).detach(), after.view(20, 6), rtol=0.02, atol=0.02)
    tokens = torch.tensor([3, 3, 7, 19])
    head.embedding(tokens).square().sum().backward()
    assert not head.first.weight.grad[[0, 1, 2, 4, 5, 6]].any()
    assert head.first.weight.grad[3].all()
    assert head.tails[1].softmax.weight.grad[7].all()


def test_biases_start_at_the_shares():
    head = AdaptiveSoftmax(4, 12, cutoffs=(4, 8))
    counts = torch.tensor([900, 500, 300, 200, 90, 80, 70, 60, 9, 8, 7, 6])
    head.start_bias(counts)
    with torch.no_grad():
        share = head.log_prob(torch.zeros(1, 4)).exp()[0]
    torch.testing.assert_close(share, counts / counts.sum(), rtol=0.02, atol=1e-3)
    with pytest.raises(InputError, match=r"counts is \[5\]; expected \[12\]"):
        head.start_bias(counts[:5])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cutoffs": (5, 5)}, r"cutoffs is \(5, 5\); expected the first class of each"),
        ({"cutoffs": (0,)}, "above 0"),
        ({"cutoffs": (20,)}, "below the number of classes, 20"),
        ({"cutoffs": (2.5,)}, "whole numbers"),
        ({"cutoffs": 10}, "cutoffs is 10; expected the first class of each"),
        ({"div_value": "4"}, "div_value is '4'; expected"),
        ({"div_value": 0.5}, "div_value is 0.5; expected"),
    ],
)
def test_clusters_that_are_none(options, said):
    with pytest.raises(InputError, match=said):
        AdaptiveSoftmax(4, 20, **options)


def test_default_cutoffs():
    assert AdaptiveSoftmax(4, 33_278, device="meta").cutoffs == (2218, 6655)
    assert AdaptiveSoftmax(4, 5).cutoffs == (1,)
    assert AdaptiveSoftmax(4, 3).cutoffs == ()


def test_a_cluster_without_a_token_has_a_gradient_of_zeros():
    """As on a rank of several that has none: DDP waits for each parameter."""
    head = AdaptiveSoftmax(4, 12, cutoffs=(4, 8))
    head.loss(torch.randn(3, 4), torch.tensor([0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert not head.tails[0].softmax.weight.grad.any()


@pytest.mark.filterwarnings("ignore:an example")
def test_what_no_step_used_is_not_written():
    head = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    handle = head.attach(optimizer)
    h, y = batch(6, 20)
    head.loss(h, y).backward()
    optimizer.zero_grad()  # thrown away
    optimizer.step()
    with torch.no_grad():
        head.loss(h, y)
    head.eval()
    head.loss(h, y).backward()
    optimizer.step()
    assert (head.counts == 1).all()
    head.train()
    handle.remove()
    assert not head.attached
    other = nn.Linear(2, 2)
    with pytest.raises(InputError, match="does not hold this head's weight"):
        head.attach(torch.optim.SGD([*other.parameters(), *head.first.parameters()], lr=0.1))
    assert not head.first.attached, "all clusters or none"


@pytest.mark.parametrize("objective", ["softmax", "inner_product"])
def test_the_inner_objective_is_that_of_the_class_in_its_cluster(objective):
    """One gradient step on the example's own loss: of a class of a tail, the tail's part of it is all that moves it."""
    head = HebbianAdaptiveSoftmax(6, 20, cutoffs=(5, 12), rule="paper", objective=objective, T=50, dtype=torch.float64)
    before = copy.deepcopy(head)
    h, _ = batch(6, 20)
    labels = torch.tensor([1, 7, 7, 19])
    for v in (1, 7, 19):
        layers = [before.first, *(tail.softmax for tail in before.tails)]
        k = sum(v >= edge for edge in before.cutoffs)
        row = v - (0, *before.cutoffs)[k]
        if objective == "softmax":
            loss = before.nll(h[:4], labels)[labels == v].mean()
        else:
            own = h[:4] if k == 0 else h[:4] @ before.tails[k - 1].projection.t()
            loss = -(own @ layers[k].weight[row])[labels == v].mean()
        grad = torch.autograd.grad(loss, layers[k].weight)[0][row]
        after = copy.deepcopy(before)
        after.write(h[:4], labels)
        moved = [after.first, *(tail.softmax for tail in after.tails)][k].weight[row]
        torch.testing.assert_close(moved, layers[k].weight[row] - grad, rtol=1e-10, atol=1e-12)  # lambda is 1


@pytest.mark.parametrize("ignored", [*range(20), -1, 99])
def test_any_label_may_be_the_one_that_does_not_count(ignored):
    head = HebbianAdaptiveSoftmax(6, 20, (5, 12), ignore_index=ignored, dtype=torch.float64)
    h, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20)
    wanted = -head.log_prob(h)[y, y]
    counts = y != ignored
    torch.testing.assert_close(head.nll(h, y), wanted * counts)
    torch.testing.assert_close(head.loss(h, y), wanted[counts].mean())
    head.write(h, y)
    assert torch.equal(head.counts, 1 + counts.long())
    assert head.embedding(y).shape == (20, 6)


def test_the_rows_of_the_tails_are_never_written():
    head = HebbianAdaptiveSoftmax(6, 20, (5, 12), rule="paper", dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer)
    before = head.first.weight.detach().clone()
    head.T = 500
    head.loss(*batch(6, 20, 60)).backward()
    optimizer.step()
    assert torch.equal(head.first.weight[5:], before[5:])
    assert not torch.equal(head.first.weight[:5], before[:5])
    assert (head.first.counts[5:] > 10).all(), "but counted"


def test_settings_are_those_of_all_clusters():
    head = HebbianAdaptiveSoftmax(6, 20, (5, 12), T=50, rule="paper", dtype=torch.float64)
    head.T, head.gamma = 1, 0.5
    before = copy.deepcopy(head.state_dict())
    with pytest.warns(UserWarning, match="nothing was written"):
        head.write(*batch(6, 20))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items() if "weight" in name)
    assert (head.T, head.gamma, head.rule, head.objective) == (1, 0.5, "paper", "l2")
    for name in ("rule", "objective"):
        with pytest.raises(AttributeError, match="has no setter"):
            setattr(head, name, "softmax")


def test_a_write_that_fails_in_one_cluster_is_none_in_all():
    head = HebbianAdaptiveSoftmax(6, 20, (5, 12), rule="paper", objective="softmax")
    with torch.no_grad():
        head.tails[1].softmax.bias[3] = torch.nan
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="Nothing was written"):
        head.write(torch.randn(20, 6), torch.arange(20))
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_look_at_data_without_a_class_of_one_tail():
    head = HebbianAdaptiveSoftmax(4, 12, (4, 8), div_value=1)
    h, y = torch.randn(200, 4), torch.randint(4, (200,))
    y[::2] += 8
    with pytest.warns(UserWarning, match="layer that starts") as said, head.looking():
        head.loss(h, y)
    assert len(said) == 1
    seen = [bool(layer.moments.any()) for layer in (head.first, *(tail.softmax for tail in head.tails))]
    assert seen == [True, False, True]
    with pytest.raises(InputError, match="saw no example"), head.looking():
        pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_another_precision(dtype):
    head = HebbianAdaptiveSoftmax(16, 50, (10, 30))
    h, y = torch.randn(40, 16), torch.randint(50, (40,))
    given = h.to(dtype)
    torch.testing.assert_close(head.nll(given, y).float(), head.nll(given.float(), y), rtol=1e-2, atol=1e-2)
    other = copy.deepcopy(head)
    head.write(given, y)
    with torch.autocast("cpu", torch.bfloat16):
        other.write(given.float(), y)
    torch.testing.assert_close(head.first.weight, other.first.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.tails[0].softmax.weight, other.tails[0].softmax.weight, rtol=1e-5, atol=1e-6)


def test_a_refused_state_leaves_the_head_as_it_was():
    one, other = (HebbianAdaptiveSoftmax(6, 20, cutoffs) for cutoffs in ((5, 12), (4, 12)))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match="with cutoffs"):
        other.load_state_dict(one.state_dict())
    assert torch.equal(other.frequent, before["frequent"])
    HebbianAdaptiveSoftmax(6, 20, (4, 12)).load_state_dict(other.state_dict())


def test_very_many_and_very_narrow_tails():
    head = AdaptiveSoftmax(4, 700, range(1, 600))
    assert head.tails[-1].softmax.in_features == 1
    assert AdaptiveSoftmax(4, 20, (5, 9), 1e200).tails[1].softmax.in_features == 1
    torch.testing.assert_close(head.log_prob(torch.randn(2, 4)).exp().sum(-1), torch.ones(2))


def test_a_cluster_that_is_frozen_is_named():
    head = HebbianAdaptiveSoftmax(6, 20, (5, 12))
    head.tails[1].softmax.weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"^tails\.1\.softmax: the head's weight does not require a gradient"):
        head.attach(torch.optim.SGD([one for one in head.parameters() if one.requires_grad], lr=0.1))
