"""The core on a CUDA device. `make gpu` runs these on a machine that has one; elsewhere they skip."""

import pytest
import torch
import torch.nn.functional as F

from firstsight import HebbianAdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax
from firstsight.functional import hebbian_update_, linear_cross_entropy
from firstsight.heads.rules import RULES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: run `make gpu` on a machine with one"),
]


@pytest.mark.parametrize(("n", "v", "d"), [(1, 1, 1), (1133, 9001, 33), (4096, 100_003, 128)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_equals_float64(n, v, d, reduction, dtype):
    g = torch.Generator().manual_seed(n)
    leaves = [torch.randn(n, d, generator=g), torch.randn(v, d, generator=g) / d**0.5, torch.randn(v, generator=g)]
    target = torch.randint(v, (n,), generator=g)

    def run(loss, device, kind):
        tensors = [leaf.to(device, kind, copy=True).requires_grad_() for leaf in leaves]
        value = loss(*tensors)
        value.mean().backward()
        return [value.detach(), *(t.grad for t in tensors)]

    def ours(h, w, b):
        return linear_cross_entropy(h, w, target.cuda(), b, reduction=reduction, compute_dtype=dtype)

    def reference(h, w, b):
        return F.cross_entropy(F.linear(h, w, b), target, reduction=reduction)

    for a, b in zip(run(ours, "cuda", torch.float32), run(reference, "cpu", torch.float64), strict=True):
        error = (a.cpu().double() - b).norm() / b.norm().clamp(min=1e-9)
        assert error < (1e-3 if dtype == torch.float32 else 1e-2), error


@pytest.mark.parametrize(("n", "v"), [(0, 5), (7, 1), (1120, 300_000), (51_200, 267_735)])
def test_write_equals_the_cpu(n, v):
    g = torch.Generator().manual_seed(v)
    weight, hidden = torch.randn(v, 64, generator=g), torch.randn(n, 64, generator=g)
    target, counts = torch.randint(v, (n,), generator=g), torch.randint(1, 9, (v,), generator=g)
    target[::5] = -100
    on_gpu = [t.cuda() for t in (weight, counts)]
    hebbian_update_(*on_gpu, hidden.cuda(), target.cuda(), T=6, gamma=0.2)
    hebbian_update_(weight, counts, hidden, target, T=6, gamma=0.2)
    torch.testing.assert_close(on_gpu[0].cpu(), weight, rtol=1e-5, atol=1e-5)
    assert torch.equal(on_gpu[1].cpu(), counts)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_writes_as_on_the_cpu(rule):
    torch.manual_seed(0)
    heads = [HebbianSoftmax(33, 501, T=4, gamma=0.1, rule=rule, record=True, dtype=torch.float64)]
    heads.append(HebbianSoftmax(33, 501, T=4, gamma=0.1, rule=rule, record=True, dtype=torch.float64, device="cuda"))
    heads[1].load_state_dict(heads[0].state_dict())
    for _ in range(5):
        hidden, target = torch.randn(200, 33, dtype=torch.float64), torch.randint(501, (200,))
        for head in heads:
            head.write(hidden.to(head.weight), target.to(head.weight.device))
    for name, value in heads[0].state_dict().items():
        torch.testing.assert_close(heads[1].state_dict()[name].cpu(), value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_writes_nothing_and_defers_nothing(fused):
    head = HebbianSoftmax(8, 9, device="cuda")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01, fused=fused)
    head.attach(optimizer)
    scaler = torch.amp.GradScaler("cuda")
    for scale in (torch.inf, 1.0):
        h, y = torch.randn(12, 8, device="cuda"), torch.randint(9, (12,), device="cuda")
        with torch.autocast("cuda", torch.float16):
            loss = head.loss(h, y)
        scaler.scale(loss * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        expected = torch.ones(9, dtype=torch.int64, device="cuda")
        if scale == 1.0:
            expected += torch.bincount(y, minlength=9)
        assert torch.equal(head.counts, expected)
    assert head.weight.isfinite().all()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (HebbianSampledSoftmax, {"samples": 50}),
        (HebbianAdaptiveSoftmax, {"cutoffs": (40, 150)}),
        (HebbianSoftmax, {"rule": "paper", "objective": "softmax"}),
    ],
)
def test_training_is_as_on_the_cpu(make, options):
    torch.manual_seed(0)
    heads = [make(32, 501, dtype=torch.float64, device=device, **options) for device in ("cpu", "cuda")]
    heads[1].load_state_dict(heads[0].state_dict())
    optimizers = [torch.optim.SGD(head.parameters(), lr=0.1) for head in heads]
    for head, optimizer in zip(heads, optimizers, strict=True):
        head.attach(optimizer)
    for _ in range(5):
        hidden, target = torch.randn(200, 32, dtype=torch.float64), torch.randint(501, (200,))
        for head, optimizer in zip(heads, optimizers, strict=True):
            device = next(head.parameters()).device
            optimizer.zero_grad()
            head.loss(hidden.to(device), target.to(device)).backward()
            optimizer.step()
    for name, value in heads[0].state_dict().items():
        torch.testing.assert_close(heads[1].state_dict()[name].cpu(), value, rtol=1e-6, atol=1e-8)
