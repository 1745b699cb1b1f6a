"""A head trained on a problem of V classes, and examples of these and of NEW more."""

import torch

from firstsight import HebbianSoftmax

D, V, NEW = 24, 120, 15


def draw(classes, each, seed=0, spread=0.6, off=1.0):
    """Examples [classes, each, D] around means that are the same at every call, off the origin."""
    means = torch.randn(V + NEW, D, generator=torch.Generator().manual_seed(99), dtype=torch.float64) + off
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(classes), each, D, generator=g, dtype=torch.float64)
    return (means[list(classes), None] + spread * noise).float()


def trained(bias=True, rule="sight", dtype=torch.float32, off=1.0, spread=0.6):
    """A head trained on V classes, some of them rare."""
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, T=20, gamma=0.05, bias=bias, rule=rule, dtype=dtype)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    handle = head.attach(optimizer)
    x, y = draw(range(V), 24, off=off, spread=spread).flatten(0, 1).to(dtype), torch.arange(V).repeat_interleave(24)
    kept = torch.rand(len(y), generator=torch.Generator().manual_seed(1)) < 0.2 + 0.8 * (y % 5 > 0)
    x, y = x[kept], y[kept]
    for _ in range(12):
        for part in torch.randperm(len(y)).split(128):
            head.loss(x[part], y[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
    handle.remove()
    return head
