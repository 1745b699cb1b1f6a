"""A head after one step of Adagrad."""

import torch

from firstsight import Softmax


def trained(V, width=64):
    head = Softmax(width, V, bias=False)
    optimizer = torch.optim.Adagrad(head.parameters())
    head.attach(optimizer)
    head.loss(torch.randn(2, width), torch.tensor([0, 1])).backward()
    optimizer.step()
    return head, optimizer
