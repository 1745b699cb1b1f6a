"""What mypy says of a user's script: `make lint` reads this file strictly; each ignored error has to be one."""

import numpy as np
import torch
from torch import Tensor, nn

import firstsight
from firstsight import HebbianSoftmax, MbPA, NeuralCache, Softmax, score_stream
from firstsight.estimator import FirstSightClassifier

body, hidden, target = nn.Linear(8, 16), torch.randn(4, 16), torch.arange(4)
head = HebbianSoftmax(16, 1000, rule="centered", T=100, gamma=0.02)
optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
handle = head.attach(optimizer)
loss: Tensor = head.loss(hidden, target, label_smoothing=0.1)
nll: Tensor = head.nll(hidden, target)
values, classes = head.topk(hidden, 3)
handle.remove()
head.add_classes(2)
head.write(hidden, target)
counts: Tensor = head.counts
plain: nn.Linear = HebbianSoftmax.from_linear(nn.Linear(16, 10), "trained").to_linear()
memory = score_stream(Softmax(16, 10), hidden, target, memories={NeuralCache(size=10): 0.1, MbPA(size=10): 0.04})
firstsight.attach(nn.Linear(16, 10), optimizer, counts="new", rule="sight")
labels = FirstSightClassifier(rule="sight").fit(np.zeros((2, 3)), ["a", "b"]).predict(np.zeros((1, 3)))

HebbianSoftmax(16, 1000, rule="centred")  # type: ignore[arg-type]
HebbianSoftmax(16, 1000, objective="l1")  # type: ignore[arg-type]
firstsight.attach(nn.Linear(16, 10), optimizer, counts="new", rule="papers")  # type: ignore[arg-type]
FirstSightClassifier(rule="sights")  # type: ignore[arg-type]
