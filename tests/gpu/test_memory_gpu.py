"""The memories on a CUDA device equal the memories on the CPU, which the unit tests compare with plain loops.

`make gpu` runs these on a machine that has one; elsewhere they skip.
"""

import copy

import pytest
import torch

from firstsight import HebbianSoftmax, InputError, MbPA, NeuralCache, score_stream
from firstsight.memory import CacheGrid, MbPAGrid

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: run `make gpu` on a machine with one"),
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # nats


def stream(shape, v, d, dtype=torch.float64, repeated=False):
    """``repeated``: few keys again and again, so that equal distances are everywhere."""
    g = torch.Generator().manual_seed(d)
    hidden = torch.randn(*shape, d, generator=g, dtype=torch.float64)
    if repeated:
        hidden = torch.randn(9, d, generator=g, dtype=torch.float64)[torch.randint(9, shape, generator=g)]
    target = torch.randint(v, shape, generator=g)
    return hidden.to(dtype), target.masked_fill(torch.rand(shape, generator=g) < 0.1, -100)


def new_head(v, d, dtype):
    torch.manual_seed(v)
    head = HebbianSoftmax(d, v, dtype=dtype)
    torch.nn.init.normal_(head.bias)
    return head, copy.deepcopy(head).cuda()


def in_parts(score, hidden, target):
    half = target.shape[-1] // 3
    parts = [score(hidden[..., :half, :], target[..., :half]), score(hidden[..., half:, :], target[..., half:])]
    return torch.cat(parts, -1)


def assert_close(on_gpu, on_cpu, dtype):
    assert on_gpu.is_cuda
    assert on_gpu.dtype == on_cpu.dtype == dtype
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"), [((3000,), 1000), ((3, 700), 64), ((5,), 10_000), ((0,), 5), ((20_000,), 9000)]
)
def test_cache(dtype, repeated, shape, size):
    hidden, target = stream(shape, 50, 24, dtype, repeated)
    on_cpu, on_gpu = NeuralCache(size), NeuralCache(size)
    expected = in_parts(on_cpu.nll, hidden, target)
    assert_close(in_parts(on_gpu.nll, hidden.cuda(), target.cuda()), expected, dtype)
    assert len(on_gpu) == len(on_cpu)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("shape", "v", "size", "k"), [((1500,), 3001, 500, 100), ((2, 300), 7, 64, 5), ((40,), 9, 1, 1)]
)
def test_mbpa(repeated, shape, v, size, k):
    """In float64: nearly equal distances are told apart alike on both."""
    hidden, target = stream(shape, v, 24, repeated=repeated)
    head, head_gpu = new_head(v, 24, torch.float64)
    on_cpu, on_gpu = MbPA(size, k), MbPA(size, k)
    expected = in_parts(lambda h, y: on_cpu.nll(head, h, y), hidden, target)
    nll = in_parts(lambda h, y: on_gpu.nll(head_gpu, h, y), hidden.cuda(), target.cuda())
    assert_close(nll, expected, torch.float64)


@pytest.mark.parametrize("steps", [1, 2])
def test_mbpa_in_single_precision(steps):
    """All pairs are neighbours, so rounding chooses none of them."""
    hidden, target = stream((120,), 2000, 24, torch.float32)
    head, head_gpu = new_head(2000, 24, torch.float32)
    expected = MbPA(200, 200, steps=steps).nll(head.double(), hidden.double(), target)
    nll = MbPA(200, 200, steps=steps).nll(head_gpu, hidden.cuda(), target.cuda())
    torch.testing.assert_close(nll.cpu().double(), expected, rtol=0, atol=1e-3)


def test_grids():
    hidden, target = stream((2, 300), 40, 16)
    head, head_gpu = new_head(40, 16, torch.float64)
    grid = CacheGrid([0.3, 1.0], [50, 5])
    assert_close(
        CacheGrid([0.3, 1.0], [50, 5]).nll(hidden.cuda(), target.cuda()), grid.nll(hidden, target), torch.float64
    )
    for steps in (1, 2):
        grid, grid_gpu = (MbPAGrid(50, [9, 3], [0.3, 1.0], steps=steps) for _ in range(2))
        expected = grid.nll(head, hidden[:, :40], target[:, :40])
        assert_close(grid_gpu.nll(head_gpu, hidden[:, :40].cuda(), target[:, :40].cuda()), expected, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mixture(dtype):
    hidden, target = stream((2, 300), 40, 16, dtype)
    head, head_gpu = new_head(40, 16, dtype)

    def score(head, hidden, target):
        return score_stream(head, hidden, target, cache=NeuralCache(100), mbpa=MbPA(100, 100))

    assert_close(score(head_gpu, hidden.cuda(), target.cuda()), score(head, hidden, target), dtype)


def test_bfloat16_stays_close():
    hidden, target = stream((2, 200), 500, 16, torch.bfloat16)
    head, head_gpu = new_head(500, 16, torch.float32)
    expected = score_stream(head, hidden.float(), target, cache=NeuralCache(100), mbpa=MbPA(100, 100))
    for h in (hidden, hidden.float()):
        with torch.autocast("cuda", torch.bfloat16):
            nll = score_stream(head_gpu, h.cuda(), target.cuda(), cache=NeuralCache(100), mbpa=MbPA(100, 100))
        assert nll.dtype == torch.float32
        torch.testing.assert_close(nll.cpu(), expected, rtol=0, atol=0.1)


def test_memory_stays_bounded():
    """100,000 tokens with a window of 5,000: neither tokens x window nor window x vocabulary is ever held."""
    hidden, target = stream((100_000,), 50_000, 64, torch.float32)
    _, head = new_head(50_000, 64, torch.float32)
    hidden, target, cache, mbpa = hidden.cuda(), target.cuda(), NeuralCache(5000), MbPA(5000, 256)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cache.nll(hidden, target)
    assert torch.cuda.max_memory_allocated() - before < 2e9
    mbpa.nll(head, hidden[:20_000], target[:20_000])
    assert torch.cuda.max_memory_allocated() - before < 6e9


def test_one_device_for_all():
    hidden, target = stream((12,), 9, 4)
    head, head_gpu = new_head(9, 4, torch.float64)
    cache, mbpa = NeuralCache(), MbPA()
    cache.remember(hidden, target)
    mbpa.remember(head, hidden, target)
    for call in (
        lambda: cache.nll(hidden.cuda(), target.cuda()),
        lambda: NeuralCache().nll(hidden.cuda(), target),
        lambda: mbpa.nll(head_gpu, hidden.cuda(), target.cuda()),
        lambda: mbpa.nll(head_gpu, hidden, target),
        lambda: score_stream(head, hidden.cuda(), target.cuda()),
    ):
        with pytest.raises(InputError, match=r"cpu.*cuda|cuda.*cpu"):
            call()
    assert len(cache) == len(mbpa)
