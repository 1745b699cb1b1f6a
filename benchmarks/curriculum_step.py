"""The curriculum's training step against a bare loop of the same convnet with no code of ours.

One step draws a batch of 50 drawings of 28 x 28 pixels, runs forward, loss, backward and RMSProp, and for us the write
into the head; checks and other measures are left out of both. The bare loop is an `nn.Sequential` of the same blocks
under an `nn.Linear`, with and without the channels-last layout that ours has. Run alone on the machine:

    python benchmarks/curriculum_step.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, paired, print_and_save, ratios
from torch import nn

from firstsight.lab.curriculum import Curriculum
from firstsight.lab.curriculum.draws import Drawings
from firstsight.lab.curriculum.model import Classifier, build_optimizer

N = 400  # classes introduced
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 20, 28, 28), dtype=np.uint8)


def make_step(**changes: Any) -> Callable[[], float]:
    """Our step, with the draws and the loop's calls."""
    settings = Curriculum(start=N, **changes)
    draws = Drawings(IMAGES, settings.seed)
    draws.seed_weights()
    model = Classifier(28, settings).train()
    optimizer = build_optimizer(model, settings)
    model.head.attach(optimizer, group=False)
    steps = iter(range(10**9))

    def step() -> float:
        number = next(steps)
        images, labels = draws.batch(number, N, settings.batch)
        draws.seed_dropout(number)
        loss = model.loss(images, labels)
        found = loss.item()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return found

    return step


def make_bare(channels_last: bool) -> Callable[[], float]:
    """The same network and batch size in torch alone, as one would write it down."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (1, 64, 64, 64):
        layers += [nn.Conv2d(width, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, N))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.006)
    images = torch.from_numpy(IMAGES)

    def step() -> float:
        labels, drawings = torch.randint(N, (50,)), torch.randint(5, 20, (50,))
        loss = F.cross_entropy(model(images[labels, drawings][:, None] / 255), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    options = arguments(__doc__ or "", "benchmarks/results/curriculum_step.json", rounds=40)
    variants = {
        "bare": make_bare(channels_last=False),
        "bare channels last": make_bare(channels_last=True),
        "softmax": make_step(head="softmax"),
        "paper": make_step(rule="paper"),
        "centered": make_step(rule="centered"),
    }
    seconds = paired(variants, options.rounds)
    ours = ("softmax", "paper", "centered")
    found = {
        "sizes": {"classes": N, "batch": 50, "size": 28, "rounds": options.rounds},
        "rate_over_bare": {name: ratios(seconds, "bare", name) for name in ours},
        "rate_over_bare_channels_last": {name: ratios(seconds, "bare channels last", name) for name in ours},
        "best_seconds": {name: min(times) for name, times in seconds.items()},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
