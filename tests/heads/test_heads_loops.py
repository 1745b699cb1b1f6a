"""The heads in the loops people have: accumulation, GradScaler, resume."""

import pytest
import torch
from head_optimizers import OPTIMIZERS
from torch import nn

from firstsight import HebbianSoftmax

V, D = 9, 5


class Model(nn.Module):
    """With a tied embedding: the hardest case for anything that is saved."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.head = HebbianSoftmax(D, V, T=12, gamma=0.1, dtype=dtype)
        self.embedding = nn.Embedding(V, D, dtype=dtype)
        self.embedding.weight = self.head.weight
        self.body = nn.Linear(D, D, dtype=dtype)

    def forward(self, tokens, target):
        return self.head.nll(torch.tanh(self.body(self.embedding(tokens))), target)


def tokens(step, n=8):
    g = torch.Generator().manual_seed(step)
    return torch.randint(V, (n,), generator=g), torch.randint(V, (n,), generator=g)


def made(name, dtype=torch.float64):
    model = Model(dtype)
    optimizer = OPTIMIZERS[name](model.parameters())
    model.head.attach(optimizer)
    return model, optimizer


def train(model, optimizer, steps, micros=1):
    for step in steps:
        x, y = tokens(step)
        for part_x, part_y in zip(x.chunk(micros), y.chunk(micros), strict=True):
            (model(part_x, part_y).sum() / len(y)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_four_micro_batches_equal_one_batch(name):
    (one, one_optimizer), (four, four_optimizer) = made(name), made(name)
    train(one, one_optimizer, range(20))
    train(four, four_optimizer, range(20), micros=4)
    torch.testing.assert_close(four.state_dict(), one.state_dict(), rtol=1e-9, atol=1e-9)
    assert one.head.counts.max() > one.head.T


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_equals_the_straight_run_bit_for_bit(name, tmp_path):
    # In float32, because torch's NAdam keeps a float32 number that load_state_dict turns into the dtype of the weights.
    straight, optimizer = made(name, torch.float32)
    train(straight, optimizer, range(16), micros=2)
    first, optimizer = made(name, torch.float32)
    train(first, optimizer, range(7), micros=2)
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.pt")
    second, optimizer = made(name, torch.float32)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    second.load_state_dict(saved["model"], strict=True)
    optimizer.load_state_dict(saved["optimizer"])
    assert second.embedding.weight is second.head.weight
    train(second, optimizer, range(7, 16), micros=2)
    for key, value in straight.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_overflow_writes_nothing_and_defers_nothing(name):
    """Steps 1 and 2 overflow; the third micro-batch of step 2 too, so that what came before it is dropped as well."""
    model, optimizer = made(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = torch.ones(V, dtype=torch.int64)
    for step in range(5):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        for micro in range(3):
            x, y = tokens(10 * step + micro)
            scaler.scale(model(x, y).mean() * (torch.inf if step in (1, 2) and micro == 3 - step else 1.0)).backward()
            expected += 0 if step in (1, 2) else torch.bincount(y, minlength=V)
        if step > 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=step != 1)
        assert torch.equal(model.head.counts, expected)
        if step in (1, 2):
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_scaler_changes_nothing_where_nothing_overflows():
    (scaled, optimizer), (plain, plain_optimizer) = made("adam, fused"), made("adam, fused")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(10):
        scaler.scale(scaled(*tokens(step)).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        plain(*tokens(step)).mean().backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-9)
