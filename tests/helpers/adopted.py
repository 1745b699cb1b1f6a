"""A model as those that firstsight.attach is for, and how it is trained."""

import torch
import torch.nn.functional as F
from torch import nn

V, D, S = 11, 6, 5


class Model(nn.Module):
    """As those of transformers: a body, an output layer, and a loss of its own; shifts its labels if asked to."""

    def __init__(self, tied=False, shift=0):
        super().__init__()
        torch.manual_seed(0)
        self.shift = shift
        self.embedding = nn.Embedding(V, D, dtype=torch.float64)
        self.body = nn.Linear(D, D, dtype=torch.float64)
        self.out = nn.Linear(D, V, dtype=torch.float64)
        if tied:
            self.out.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.out

    def hidden(self, tokens):
        return torch.tanh(self.body(self.embedding(tokens)))

    def forward(self, tokens, labels=None):
        logits = self.out(self.hidden(tokens))
        if labels is None:
            return logits
        end = logits.shape[1] - self.shift
        return F.cross_entropy(logits[:, :end].flatten(0, 1), labels[:, self.shift :].flatten())


def batch(step, n=3):
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(V, (n, S), generator=generator)
    labels[0, -1] = -100
    return torch.randint(V, (n, S), generator=generator), labels


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        model(batch(step)[0], labels=batch(step)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()


def close(ours, theirs):
    return torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def same(model, other, equal):
    assert all(equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)
