"""Growth in mid-training: as if the rows had been there, unseen, from the start."""

import pytest
import torch
import torch.nn.functional as F
from head_optimizers import OPTIMIZERS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from firstsight import HebbianSoftmax, InputError, Softmax

OLD, NEW, D = 9, 3, 5
RULE = {"T": 30, "gamma": 0.05}


def batches(steps, grow_at):
    """Two micro-batches a step. Growth falls between the two of step ``grow_at``."""
    g = torch.Generator().manual_seed(7)
    for step in range(steps):
        for micro in range(2):
            grown = (step, micro) > (grow_at, 0)
            h = torch.randn(6, D, generator=g, dtype=torch.float64)
            yield step, micro, h, torch.randint(OLD + NEW if grown else OLD, (6,), generator=g), grown


def grown_run(kind, make, steps, grow_at):
    torch.manual_seed(3)
    head = kind(D, OLD, dtype=torch.float64, **(RULE | {"rule": "paper"} if kind is HebbianSoftmax else {}))
    first = [p.detach().clone() for p in head.parameters()]
    optimizer = make(head.parameters())
    head.attach(optimizer)
    rows = None
    for _, micro, h, y, grown in batches(steps, grow_at):
        if grown and rows is None:
            head.add_classes(NEW)
            rows = head.weight[OLD:].detach().clone()
        head.loss(h, y).backward()
        if micro:
            optimizer.step()
            optimizer.zero_grad()
    return head, first, rows


def masked_run(kind, make, steps, grow_at, first, rows):
    """All rows from the start, the unseen at minus infinity; the loss of torch; the rule as a loop."""
    weight, bias = (nn.Parameter(F.pad(p, (0, 0) * (p.ndim - 1) + (0, NEW))) for p in first)
    counts = [1] * (OLD + NEW)
    optimizer = make([weight, bias])
    seen, begun = [], False
    for _, micro, h, y, grown in batches(steps, grow_at):
        if grown and not begun:
            weight.data[OLD:], begun = rows, True
        logits = F.linear(h, weight, bias)
        F.cross_entropy(logits if grown else logits[:, :OLD], y).backward()
        seen.append((h, y))
        if not micro:
            continue
        optimizer.step()
        optimizer.zero_grad()
        h, y = (torch.cat(parts) for parts in zip(*seen, strict=True))
        seen = []
        for i in y.unique().tolist():
            rate = max(1 / counts[i], RULE["gamma"]) if counts[i] < RULE["T"] else 0.0
            if kind is HebbianSoftmax:
                weight.data[i] += rate * (h[y == i].mean(0) - weight.data[i])
            counts[i] += int((y == i).sum())
    return weight, bias, counts


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_growth_equals_rows_that_were_always_there(name):
    arguments = (HebbianSoftmax, OPTIMIZERS[name], 300, 20)
    head, first, rows = grown_run(*arguments)
    weight, bias, counts = masked_run(*arguments, first, rows)
    torch.testing.assert_close(head.weight, weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.bias, bias, rtol=1e-8, atol=1e-10)
    assert head.counts.tolist() == counts
    assert max(counts) > RULE["T"]


def test_growth_of_the_plain_softmax():
    arguments = (Softmax, OPTIMIZERS["adam"], 30, 20)
    head, first, rows = grown_run(*arguments)
    weight, bias, _ = masked_run(*arguments, first, rows)
    torch.testing.assert_close((head.weight, head.bias), (weight, bias), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_all_that_refers_to_the_parameters_follows(kind):
    head = kind(D, OLD)
    embedding = nn.Embedding(OLD, D)
    embedding.weight = weight = head.weight
    optimizer = torch.optim.Adam([*embedding.parameters(), head.bias])
    head.attach(optimizer)
    losses = []  # kept, so that their graphs keep what they know of the old shape
    for size in (OLD, OLD + 2, OLD + 4):
        assert embedding.weight is head.weight is weight
        assert weight.shape == (size, D)
        assert weight.is_leaf
        y = torch.arange(size)
        losses.append(head.loss(embedding(y), y))
        losses[-1].backward()
        optimizer.step()
        assert weight.grad[-1].any()
        head.add_classes(2)
        assert weight.grad.shape == weight.shape
        assert not weight.grad[size:].any()
    assert optimizer.state[weight]["exp_avg"].shape == weight.shape


def test_new_rows_start_like_those_of_a_new_head():
    head = HebbianSoftmax(16, 2, rule="paper", dtype=torch.float64)
    head.counts.fill_(7)
    head.add_classes(4000)
    rows = head.weight[2:].detach()
    assert rows.abs().max() <= 0.25
    assert abs(rows.std().item() - 0.25 / 3**0.5) < 1e-3
    assert not head.bias.any()
    assert head.counts.tolist() == [7, 7] + [1] * 4000
    head.write(torch.ones(16, dtype=torch.float64), torch.tensor(4001))
    assert (head.weight[4001] == 1).all()


@pytest.mark.parametrize("kind", [Softmax, HebbianSoftmax])
def test_a_loss_from_before_cannot_go_backward_after(kind):
    head = kind(D, OLD)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    loss = head.loss(torch.randn(2, D), torch.tensor([0, 1]))
    head.add_classes(1)
    with pytest.raises(InputError, match=r"before add_classes or remove_classes went backward.*\[9, 5\].*\[10, 5\]"):
        loss.backward()


def test_what_cannot_grow_is_named_and_nothing_changes():
    head = HebbianSoftmax(D, OLD)
    with pytest.raises(InputError, match="n is 0; expected 1 or more"):
        head.add_classes(0)
    optimizer = torch.optim.Rprop(head.parameters())
    handle = head.attach(optimizer)
    head.loss(torch.randn(2, D), torch.tensor([0, 1])).backward()
    optimizer.step()
    with pytest.raises(InputError, match=r"Rprop keeps 'prev'.*Remove the head's handle"):
        head.add_classes(1)
    assert head.num_classes == len(head.bias) == len(head.counts) == OLD
    handle.remove()
    head.add_classes(1)
    assert head.num_classes == OLD + 1


class _Traffic(TorchDispatchMode):
    """Elements allocated and written by large operations."""

    allocated = written = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() > 100:
            name = function.overloadpacket.__name__
            self.allocated += out.numel() if "empty" in name else 0
            self.written += out.numel() if name.endswith("_") and name != "detach_" else 0
            assert name in ("new_empty", "empty", "copy_", "slice", "detach", "alias", "cat", "view"), name
        return out


def test_growth_costs_one_allocation_and_one_copy_of_each_tensor_and_then_nothing_for_a_while():
    head = Softmax(64, 1000, bias=False)
    optimizer = torch.optim.Adam(head.parameters())
    head.attach(optimizer)
    head.loss(torch.randn(2, 64), torch.tensor([0, 1])).backward()
    optimizer.step()
    with _Traffic() as traffic:
        head.add_classes(1)
    tensors, room = 4, 1000 // 8  # the weight, its gradient, the two moments
    assert traffic.allocated == tensors * (1001 + room) * 64
    assert traffic.written == tensors * 1000 * 64
    with _Traffic() as traffic:
        for _ in range(room):
            head.add_classes(1)
    assert traffic.allocated == traffic.written == 0
