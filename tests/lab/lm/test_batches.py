"""What a step is fed: its batch, and its learning rate."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.lm.batches import Batches
from firstsight.lab.lm.config import Config


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 400), st.integers(0, 3))
@settings(deadline=None)
def test_batches_show_every_token_once_an_epoch(batch, length, extra, epoch):
    count = batch * length + extra
    tokens = np.arange(100, 100 + count, dtype=np.uint32)  # a token is its own position
    batches = Batches(tokens, batch, length, eos_id=1)
    steps = batches.steps_per_epoch
    seen: Counter[int] = Counter()
    last_B = None
    for position in range(steps):
        input_BS, target_BS, begins = batches(epoch * steps + position)
        assert input_BS.dtype == target_BS.dtype == torch.int64
        assert input_BS.shape == target_BS.shape == (batch, length)
        assert begins == (position == 0)
        seen.update(target_BS.flatten().tolist())
        expected_BS = torch.where(target_BS > 100, target_BS - 1, 1)  # the token before; <eos> before the first
        assert torch.equal(input_BS, expected_BS)
        if last_B is not None:
            assert torch.equal(input_BS[:, 0], last_B)  # a stream goes on where it was
        last_B = target_BS[:, -1]
    assert set(seen.values()) == {1}
    assert count - len(seen) < batch * length + batch  # the cut tails


def test_a_text_too_short_for_a_batch():
    tokens = np.zeros(59, dtype=np.uint32)
    with pytest.raises(InputError, match=r"59 tokens.*batch of 6 sequences of 10.*smaller --batch or --length"):
        Batches(tokens, 6, 10, 1)
    assert Batches(np.zeros(60, dtype=np.uint32), 6, 10, 1).steps_per_epoch == 1


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_learning_rate(decay, warmup):
    config = Config(lr=0.8, warmup=warmup, decay=decay, steps=24)
    rates = [config.rate_at(step) for step in range(25)]
    for step in range(warmup):
        assert rates[step] == pytest.approx(0.8 * (step + 1) / warmup)
    assert rates[warmup] == 0.8
    share = np.arange(25 - warmup) / (24 - warmup)
    expected = {"none": np.ones_like(share), "linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}[decay]
    assert rates[warmup:] == pytest.approx(0.8 * expected)
    assert rates[24] == pytest.approx(0.8 if decay == "none" else 0, abs=1e-12)
    assert min(rates[:24]) > 0


def test_learning_rate_where_all_steps_are_warm_up():
    config = Config(lr=1.0, warmup=10, steps=5, decay="linear")
    assert [config.rate_at(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
