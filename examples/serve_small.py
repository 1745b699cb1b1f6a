"""A trained head leaves as an ordinary linear layer: quantised, exported, or as ONNX.

The classes are the keywords of Python, the examples their letters; all four ways name the same classes.
"""

import keyword
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from firstsight import HebbianSoftmax  # firstsight


def letters(words):
    return torch.stack([F.one_hot(torch.tensor([ord(c) % 32 for c in word]), 32).float().sum(0) for word in words])


def main():
    warnings.filterwarnings("ignore")  # torch's quantize_dynamic says that it is old
    torch.manual_seed(0)
    words = keyword.kwlist
    x, y = letters(words), torch.arange(len(words))
    body, head = nn.Sequential(nn.Linear(32, 64), nn.Tanh()), HebbianSoftmax(64, len(words))
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=1e-2)
    head.attach(optimizer)
    for _ in range(100):
        optimizer.zero_grad()
        head.loss(body(x + 0.1 * torch.randn_like(x)), y).backward()
        optimizer.step()

    served = nn.Sequential(*body, head.to_linear()).eval()  # firstsight
    quantised = torch.ao.quantization.quantize_dynamic(served, {nn.Linear})
    exported = torch.export.export(served, (x,)).module()
    found = {"head": head(body(x)), "linear": served(x), "quantised": quantised(x), "exported": exported(x)}
    for name, logits in found.items():
        right = (logits.argmax(1) == y).float().mean()
        print(f"{name}: {right:.0%} of {len(words)} keywords")
        assert right > 0.9
    assert not list(served.buffers()), "nothing of the write goes along"


if __name__ == "__main__":
    main()
