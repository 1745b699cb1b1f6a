"""MbPA against autograd on a copy of the rows, token by token.

B streams, N tokens, V classes, D features, K neighbours.
"""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_reference import (
    KINDS,
    SHAPES,
    STEPS,
    PlainMbPA,
    assert_nll,
    blocks,
    double,
    make_head,
    make_stream,
    model_nll,
    no_graph,
    pieces,
    seeds,
)

from firstsight import MbPA


@settings(max_examples=120, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    v=st.sampled_from([1, 2, 7, 33]),
    d=st.sampled_from([1, 3, 8]),
    bias=st.booleans(),
    kind=st.sampled_from(KINDS),
    layer=st.sampled_from(["linear", "hebbian"]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    size=st.sampled_from([1, 2, 7, 30, 10_000]),
    k=st.sampled_from([1, 3, 10, 1024]),
    lr=st.sampled_from([0.0, 0.3, 1.5]),
    steps_beta=st.sampled_from(STEPS),
    block=blocks,
)
def test_equals_autograd(seed, shape, v, d, bias, kind, layer, ignored, dtype, size, k, lr, steps_beta, block):
    steps, beta = steps_beta
    hidden, target = make_stream(seed, shape, v, d, kind, ignored, dtype)
    head = make_head(seed, v, d, bias, dtype, layer)
    plain = PlainMbPA(size, k, lr, beta, steps)
    expected = plain.nll(head, hidden, target)
    nll = MbPA(size, k, lr, beta, steps, block=block).nll(head, hidden, target)
    assert nll.dtype == dtype
    assert_nll(nll, expected, skip=None if dtype == torch.float64 else plain.unsure)


def test_the_reference_by_hand():
    """One pair of label 1 at distance 0, zero rows: the gradient of row i is (p_i - 1{i = 1}) h."""
    head = make_head(0, 2, 1, bias=False)
    torch.nn.init.zeros_(head.weight)
    hidden, target = double([[2.0], [2.0]]), torch.tensor([1, 1])
    z_V = 0.3 * double([-0.5, 0.5]) * 4
    for memory in (PlainMbPA(5, 5, 0.3, 0.5, 1), MbPA(5, 5, 0.3, 0.5, 1)):
        nll = memory.nll(head, hidden, target)
        torch.testing.assert_close(nll, torch.stack([double(2.0).log(), -z_V.log_softmax(0)[1]]))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_equal_activations_the_most_recent_count(k, steps, dtype):
    """All keys are one: the K nearest are the K last, whatever rounding makes of the distances."""
    hidden, target = make_stream(1, (50,), 20, 7, "equal", dtype=dtype, scale=3)
    head = make_head(1, 20, 7, dtype=dtype)
    wide = MbPA(30, k, 0.3, 0.5, steps, block=16).nll(head, hidden, target)
    assert_nll(wide, MbPA(k, k, 0.3, 0.5, steps, block=16).nll(head, hidden, target), 1e-5)
    assert_nll(wide, PlainMbPA(k, k, 0.3, 0.5, steps).nll(head, hidden, target))


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_kernel_of_close_neighbours_in_float32(offset):
    """Squared distances near eps between long activations: a difference of squares would lose them."""
    g = torch.Generator().manual_seed(0)
    hidden, target = offset + 0.001 * torch.randn(40, 512, generator=g), torch.randint(9, (40,), generator=g)
    head = make_head(0, 9, 512, dtype=torch.float32)
    with torch.no_grad():
        head.weight /= 50
    memory = MbPA(20, 1024, lr=0.001, block=8)
    assert_nll(memory.nll(head, hidden, target), PlainMbPA(20, 1024, 0.001, 0.5, 1).nll(head, hidden, target))


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    shape=st.sampled_from([(60,), (2, 25)]),
    kind=st.sampled_from(KINDS),
    ignored=st.sampled_from([0.0, 0.3]),
    size=st.sampled_from([1, 3, 10, 40, 1000]),
    k=st.sampled_from([1, 4, 1024]),
    steps=st.sampled_from([1, 2]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    scored=st.lists(st.booleans(), min_size=6, max_size=6),
    blocks=st.tuples(blocks, blocks),
)
def test_parts_equal_the_whole(seed, shape, kind, ignored, size, k, steps, cuts, scored, blocks):
    """Any cut, empty parts and single tokens included; parts that are only remembered count as much; any block."""
    hidden, target = make_stream(seed, shape, 6, 4, kind, ignored)
    head = make_head(seed, 6, 4)
    whole, parts = (MbPA(size, k, steps=steps, block=block) for block in blocks)
    expected, end = whole.nll(head, hidden, target), 0
    for (h, y), is_scored in zip(pieces(hidden, target, cuts), scored, strict=False):
        start, end = end, end + y.shape[-1]
        if is_scored:
            assert_nll(parts.nll(head, h, y), expected[..., start:end], 1e-10)
        else:
            assert parts.remember(head, h, y) is None
    assert len(parts) == len(whole)


@pytest.mark.parametrize(("steps", "n"), [(1, 1500), (2, 60)])
def test_long_stream_with_the_default_block(steps, n):
    hidden, target = make_stream(2, (n,), 30, 6, ignored=0.1)
    head = make_head(2, 30, 6)
    nll = MbPA(100, 20, steps=steps).nll(head, hidden, target)
    assert_nll(nll, PlainMbPA(100, 20, 0.3, 0.5, steps).nll(head, hidden, target))


def test_streams_are_independent():
    hidden, target = make_stream(3, (4, 33), 5, 3, ignored=0.3)
    head, together = make_head(3, 5, 3), MbPA(10, 4, block=8)
    nll = torch.cat([together.nll(head, h, y) for h, y in pieces(hidden, target, [4, 5, 21])], dim=1)
    for b in range(4):
        assert_nll(nll[b], MbPA(10, 4, block=8).nll(head, hidden[b], target[b]), 1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_empty_memory_and_lr_0_are_the_model(bias):
    hidden, target = make_stream(4, (2, 30), 5, 3, ignored=0.2)
    head = make_head(4, 5, 3, bias)
    expected, memory = model_nll(head, hidden, target), MbPA(10, 4)
    for _ in range(2):
        assert_nll(memory.nll(head, hidden[:, :1], target[:, :1]), expected[:, :1], 1e-12)
        memory.reset()
        assert len(memory) == 0
    for steps in (1, 2):
        assert_nll(MbPA(10, 4, lr=0.0, steps=steps).nll(head, hidden, target), expected, 1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(0, 30), k=st.sampled_from([1, 5, 100]), steps=st.sampled_from([1, 2, 3]))
def test_probabilities_sum_to_one(seed, n, k, steps):
    v = 6
    hidden, target = make_stream(seed, (n + 1,), v, 4)
    head, memory = make_head(seed, v, 4), MbPA(20, k, steps=steps)
    memory.remember(head, hidden[:n], target[:n])
    nll_V = torch.cat([copy.deepcopy(memory).nll(head, hidden[n:], torch.tensor([y])) for y in range(v)])
    assert (-nll_V).exp().sum().item() == pytest.approx(1, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, lr=st.sampled_from([0.3, 30.0]), kind=st.sampled_from(KINDS), steps=st.sampled_from([1, 2]))
def test_large_logits_stay_exact(seed, lr, kind, steps):
    hidden, target = make_stream(seed, (30,), 4, 5, kind, scale=30)
    head = make_head(seed, 4, 5)
    expected = PlainMbPA(15, 6, lr, 0.5, steps).nll(head, hidden, target)
    nll = MbPA(15, 6, lr, 0.5, steps, block=8).nll(head, hidden, target)
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-6)
    assert MbPA(15, 6, lr, 0.5, steps).nll(head.float(), hidden.float(), target).isfinite().all()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_goes_its_own_way(how):
    hidden, target = make_stream(9, (40,), 5, 4)
    head = make_head(9, 5, 4)
    expected = MbPA(15, 4).nll(head, hidden, target)
    memory = MbPA(15, 4)
    memory.nll(head, hidden[:20], target[:20])
    other = how(memory)
    other.nll(head, -hidden[:9], target[:9])
    assert_nll(how(memory).nll(head, hidden[20:], target[20:]), expected[20:], 1e-12)
    assert_nll(memory.nll(head, hidden[20:], target[20:]), expected[20:], 1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_keeps_no_graph_and_no_view(steps):
    hidden, target = make_stream(10, (2, 20), 4, 3)
    head = make_head(10, 4, 3)
    expected = MbPA(15, 4, steps=steps).nll(head, hidden, target)
    memory, given_h, given_y = MbPA(15, 4, steps=steps), hidden.clone().requires_grad_(), target.clone()
    with no_graph():
        first = memory.nll(head, given_h[:, :12], given_y[:, :12])
    with torch.no_grad():
        given_h[:, :12] = 7  # as a loop that reuses its buffers does
        given_y[:, :12] = 0
    second = memory.nll(head, given_h[:, 12:], given_y[:, 12:])
    assert_nll(torch.cat([first, second], 1), expected, 1e-12)


def test_strided_tensors():
    hidden, target = make_stream(11, (20, 3), 4, 6)
    head = make_head(11, 4, 3)
    expected = MbPA(9, 4).nll(head, hidden.transpose(0, 1).contiguous()[..., ::2].contiguous(), target.T.contiguous())
    assert_nll(MbPA(9, 4).nll(head, hidden.transpose(0, 1)[..., ::2], target.T), expected, 1e-12)
    assert_nll(MbPA(9, 4).nll(head, hidden[:, 1, ::2], target[:, 1]), expected[1], 1e-12)


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("steps", [1, 2])
def test_grad_modes_may_change_between_calls(first, steps):
    hidden, target = make_stream(12, (30,), 4, 3)
    head = make_head(12, 4, 3)
    expected = MbPA(8, 4, steps=steps).nll(head, hidden, target)
    memory = MbPA(8, 4, steps=steps)
    with first():
        nll = [memory.nll(head, hidden[:12], target[:12])]
    nll.append(memory.nll(head, hidden[12:21], target[12:21]))
    with torch.inference_mode():
        nll.append(memory.nll(head, hidden[21:], target[21:]))
    assert_nll(torch.cat(nll), expected, 1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_half_precision(steps):
    hidden, target = make_stream(13, (40,), 6, 5, dtype=torch.bfloat16, scale=0.7)
    head = make_head(13, 6, 5, dtype=torch.float32)
    plain = PlainMbPA(20, 1024, 0.3, 0.5, steps)
    expected = plain.nll(head, hidden, target)
    nll = MbPA(20, 1024, steps=steps, block=16).nll(head, hidden, target)
    assert nll.dtype == torch.float32
    assert_nll(nll, expected, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        nll = MbPA(20, 1024, steps=steps, block=16).nll(head, hidden.float(), target)
    assert nll.dtype == torch.float32
    assert_nll(nll, expected, 0.1)
