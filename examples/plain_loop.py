"""The write in a plain PyTorch loop: after one epoch a classifier knows more of its rare classes with it.

300 classes, each a noisy point on a sphere: 20 frequent ones and 280 that are seen three times. Printed is the
accuracy on both, with a linear layer and with a HebbianSoftmax, at one learning rate, over three seeds.
"""

import torch
import torch.nn.functional as F

from firstsight import HebbianSoftmax  # firstsight

CLASSES, WIDTH = 300, 64


def examples(centres, labels):
    return F.normalize(centres[labels] + 0.1 * torch.randn(len(labels), WIDTH), dim=-1)


def loss_of(head, hidden, y):
    if isinstance(head, HebbianSoftmax):
        return head.loss(hidden, y)  # firstsight
    return F.cross_entropy(head(hidden), y)


def accuracy(write, seed):
    torch.manual_seed(seed)
    centres = F.normalize(torch.randn(CLASSES, WIDTH), dim=-1)
    often = torch.randint(20, (800,))
    rare = torch.arange(20, CLASSES).repeat(3)
    labels = torch.cat([often, rare])[torch.randperm(800 + len(rare))]
    inputs = examples(centres, labels)

    body = torch.nn.Linear(WIDTH, WIDTH)
    torch.nn.init.eye_(body.weight)
    head = torch.nn.Linear(WIDTH, CLASSES)
    if write:
        head = HebbianSoftmax(WIDTH, CLASSES)  # firstsight
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=1e-2)
    if write:
        head.attach(optimizer)  # firstsight
    for x, y in zip(inputs.split(32), labels.split(32), strict=True):
        loss_of(head, body(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    labels = torch.arange(CLASSES).repeat(10)
    with torch.no_grad():
        right = head(body(examples(centres, labels))).argmax(-1) == labels
    return right[labels < 20].float().mean(), right[labels >= 20].float().mean()


def main():
    for seed in range(3):
        for write in (False, True):
            frequent, rare = accuracy(write, seed)
            print(f"seed {seed}, write {write}: {frequent:.0%} of the frequent classes right, {rare:.0%} of the rare")
            assert rare > (0.15 if write else 0)
            assert write or rare < 0.1


if __name__ == "__main__":
    main()
