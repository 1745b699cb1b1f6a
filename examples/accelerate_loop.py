"""The write under accelerate, with gradient accumulation: one write for each step, of all its micro-batches.

Attach before ``accelerator.prepare``, which wraps the optimizer. The counts show that every example was counted once.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import firstsight  # firstsight


def main():
    torch.manual_seed(0)
    centres = 3 * torch.randn(50, 16)
    labels = torch.randint(50, (640,))
    batches = DataLoader(TensorDataset(centres[labels] + torch.randn(640, 16), labels), batch_size=32)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 50))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    handle = firstsight.attach(model[-1], optimizer, counts="new")  # firstsight

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    losses = []
    for _ in range(5):
        for x, y in batches:
            with accelerator.accumulate(model):
                handle.labels(y)  # firstsight
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())

    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {int(handle.head.counts.sum()) - 50} examples counted")
    assert torch.equal(handle.head.counts, 1 + 5 * torch.bincount(labels, minlength=50))
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
