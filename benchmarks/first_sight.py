"""A trained layer meets new classes: how many of their examples it finds, and how many of the old ones' it loses.

Frozen sentence vectors of ICD-10 texts (../shared/data/icd). A layer is trained on 809 classes as a user would, on the
vectors or with a small network before it, then come ``add_classes`` and ``write``: 1 to 10 examples of each of 80
classes, which are also taken one or ten at a time (by one layer a split), or of 400. Beside it what people do today:
fine-tuning with replay, started from imprinting, and training anew. Splits 0 to 2 are for development, the others for a
judgement that nothing was chosen on. A layer takes about a minute with all that is measured of it; what is done already
is kept, and the same command goes on.
"""

import argparse
import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from first_sight_rivals import FINETUNINGS, anew
from torch import Tensor, nn

from firstsight import HebbianSoftmax
from firstsight.lab.classify.methods.rivals import Layer, finetuned, imprinted
from firstsight.lab.system.files import write_json
from firstsight.lab.system.progress import say

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "icd"
EPOCHS, BATCH = 12, 256
KEPT = 5  # of a new class's texts so many may be shown, the rest are asked; of ten examples, those after the tenth
SHOTS, DRAWS = (1, 2, 5, 10), 2000
HARM = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)  # points lost at which rivals are compared
RIVALS = (1, 5)  # examples at which they are compared


class Body(nn.Sequential):
    """A small network before the layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(384, 256), nn.ReLU(), nn.Dropout(0.2))


class Task:
    """Old classes to train on, and new ones that come later.

    Attributes:
        train, train_y: rows of the archive, and labels below V.
        test, test_y: the same, of old classes.
        new: of each new class its rows, in the order in which they are shown.
    """

    def __init__(self, split: dict[str, Any], y: np.ndarray, new_classes: int, seed: int) -> None:
        self.new, train, test = list(split["new"]), list(split["train"]), list(split["test"])
        if new_classes > len(self.new):  # more of them than the split has: of the old ones, drawn
            g = np.random.default_rng(seed)
            more: dict[int, list[int]] = {}
            for row in [*train, *split["valid"], *test]:
                more.setdefault(int(y[row]), []).append(row)
            enough = sorted(c for c, rows in more.items() if len(rows) >= 8)
            gone = {int(c) for c in g.permutation(enough)[: new_classes - len(self.new)]}
            self.new += [g.permutation(more[c]).tolist() for c in sorted(gone)]
            train, test = ([row for row in rows if int(y[row]) not in gone] for rows in (train, test))
        index = {c: i for i, c in enumerate(np.unique(y[train]))}
        test = [row for row in test if y[row] in index]
        self.train, self.test = torch.tensor(train), torch.tensor(test)
        self.train_y = torch.tensor([index[c] for c in y[train]])
        self.test_y = torch.tensor([index[c] for c in y[test]])
        self.num_classes = len(index)

    def shown(self, k: int) -> Tensor:
        """[U, k] rows of the first examples."""
        return torch.tensor([rows[:k] for rows in self.new if len(rows) > max(k, KEPT)])

    def asked(self, k: int) -> tuple[Tensor, Tensor]:
        """Rows of the queries [Q], and which of the shown classes they are [Q]."""
        new = [rows[max(k, KEPT) :] for rows in self.new if len(rows) > max(k, KEPT)]
        return torch.tensor([row for own in new for row in own]), torch.arange(len(new)).repeat_interleave(
            torch.tensor([len(own) for own in new])
        )


def trained(h: Tensor, y: Tensor, rate: float, body: nn.Module | None, options: dict[str, Any]) -> HebbianSoftmax:
    """A layer as a user would train it, and the network before it."""
    torch.manual_seed(0)
    head = HebbianSoftmax(h.shape[1] if body is None else 256, int(y.max()) + 1, **options)
    parameters: list[dict[str, Any]] = [{"params": head.parameters()}]
    if body is not None:
        parameters.append({"params": body.train().parameters(), "lr": 1e-3})
    optimizer = torch.optim.Adam(parameters, lr=rate)
    handle = head.attach(optimizer)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            x = h[batch] if body is None else body(h[batch])
            head.loss(x, y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    handle.remove()
    return head.eval()


def rows_of(head: HebbianSoftmax) -> Layer:
    """Its weights and biases."""
    assert head.bias is not None
    return head.weight.detach(), head.bias.detach()


def met(head: HebbianSoftmax, shown_h: Tensor) -> HebbianSoftmax:
    """A copy that was shown examples [U, k, D], as a user would."""
    head = copy.deepcopy(head)
    head.add_classes(len(shown_h))
    y = torch.arange(head.num_classes - len(shown_h), head.num_classes)
    head.write(shown_h.flatten(0, 1), y.repeat_interleave(shown_h.shape[1]))
    return head


class Found:
    """What a layer of old and new classes answers: as it is, and if all new biases were shifted by the same."""

    def __init__(self, layer: Layer, task: Task, h: Tensor, k: int) -> None:
        weight, bias = layer
        V = task.num_classes
        old, (asked, self.asked_y) = h[task.test] @ weight.t() + bias, task.asked(k)
        new = h[asked] @ weight.t() + bias
        right = old[:, :V].argmax(1) == task.test_y
        self.accuracy = float(right.double().mean())  # of the old classes among themselves
        # From which shift on an example is lost, or found; infinity for never.
        self.lost_from = torch.where(right, old[:, :V].amax(1) - old[:, V:].amax(1), torch.inf)
        known = new[:, V:].argmax(1) == self.asked_y
        self.found_from = torch.where(known, new[:, :V].amax(1) - new[:, V:].amax(1), torch.inf)

    def lost(self, before: float) -> float:
        """Points of the old classes' examples."""
        return 100 * (before - self.accuracy + float((self.lost_from < 0).double().mean()))

    def new(self) -> Tensor:
        """Which queries are found."""
        return self.found_from < 0

    def curve(self, before: float) -> list[float] | None:
        """The share of queries found at each of ``HARM``, linear between shifts; None where none loses so few."""
        shifts = torch.linspace(-15, 15, 601)
        lost = torch.stack([(self.lost_from < s).double().mean() for s in shifts]) + before - self.accuracy
        new = torch.stack([(self.found_from < s).double().mean() for s in shifts])
        if 100 * float(lost[0]) > HARM[0]:
            return None
        return [round(100 * float(np.interp(x, 100 * lost.numpy(), new.numpy())), 2) for x in HARM]


def told(found: Found, before: float) -> dict[str, Any]:
    """Accuracies in percent, with 95% intervals by bootstrap over the new classes."""
    hit, y = found.new().numpy(), found.asked_y.numpy()
    classes, sizes = np.unique(y, return_counts=True)
    each = np.array([hit[y == c].mean() for c in classes])
    drawn = np.random.default_rng(0).integers(0, len(classes), (DRAWS, len(classes)))
    micro = (each * sizes)[drawn].sum(1) / sizes[drawn].sum(1)

    def percent(value: Any) -> Any:
        return np.round(100 * value, 2).tolist()

    return {
        "micro": percent(hit.mean()),
        "micro_95": percent(np.quantile(micro, [0.025, 0.975])),
        "macro": percent(each.mean()),
        "macro_95": percent(np.quantile(each[drawn].mean(1), [0.025, 0.975])),
        "lost": round(found.lost(before), 2),
        "at_harm": found.curve(before),
    }


def measured(task: Task, h: Tensor, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of one trained layer."""
    torch.manual_seed(0)
    body = Body() if raw["body"] == "network" else None
    head = trained(h[task.train], task.train_y, raw["rate"], body, raw["options"])
    if body is not None:
        with torch.no_grad():
            h = body.eval()(h)
    old, lines = rows_of(head), []
    before = float(((h[task.test] @ old[0].t() + old[1]).argmax(1) == task.test_y).double().mean())

    def add(method: str, k: int, layer: Layer) -> None:
        line = {"method": method, "examples": k, "before": round(100 * before, 2)}
        lines.append(line | told(Found(layer, task, h, k), before))

    for k in SHOTS:
        shown = h[task.shown(k)]
        add("sight", k, rows_of(met(head, shown)))
        if k in RIVALS:
            add("imprinting", k, imprinted(old, shown))
            for name, setting in FINETUNINGS.items() if raw["classes"] == 80 else ():
                add(name, k, finetuned(imprinted(old, shown), shown, h[task.train], task.train_y, setting))
            y = torch.arange(task.num_classes, task.num_classes + len(shown)).repeat_interleave(k)
            both = torch.cat([h[task.train], shown.flatten(0, 1)]), torch.cat([task.train_y, y])
            add("training anew", k, anew(*both, task.num_classes + len(shown), raw["rate"], EPOCHS, BATCH))
    if (raw["classes"], raw["body"], raw["rate"]) == (80, "none", 0.03):
        lines += [few(head, task, h, before, k, size) for k, size in itertools.product(RIVALS, (1, 10))]
    return lines


def few(head: HebbianSoftmax, task: Task, h: Tensor, before: float, k: int, size: int) -> dict[str, Any]:
    """New classes that come ``size`` at a time, each group to the layer as it was trained: means over the groups."""
    shown, (asked, asked_y), hits, lost = h[task.shown(k)], task.asked(k), [], []
    for start in range(0, len(shown), size):
        layer = rows_of(met(head, shown[start : start + size]))
        own = (asked_y >= start) & (asked_y < start + size)
        answer = (h[asked[own]] @ layer[0].t() + layer[1]).argmax(1)
        hits.append(answer == asked_y[own] - start + task.num_classes)
        right = (h[task.test] @ layer[0].t() + layer[1]).argmax(1) == task.test_y
        lost.append(100 * (before - float(right.double().mean())))
    micro = round(100 * float(torch.cat(hits).double().mean()), 2)
    return {"method": f"sight, {size} at a time", "examples": k, "micro": micro, "lost": round(np.mean(lost), 3)}


def main() -> int:
    """Train, show, ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("first_sight.json"), help="JSON file to write")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.1, 0.03], help="of Adam")
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--classes", nargs="+", type=int, default=[80, 400], help="how many come later")
    parser.add_argument("--bodies", nargs="+", default=["none", "network"])
    parser.add_argument("--rule", default=None, help="of the layer, in place of the default")
    given = parser.parse_args()
    archive, splits = np.load(DATA / "icd-minilm.npz"), json.loads((DATA / "splits.json").read_text())
    h, y = torch.from_numpy(archive["h"]).float(), archive["y"].astype(int)
    options = {} if given.rule is None else {"rule": given.rule}
    parts = given.out.with_suffix(".parts")
    lines: list[dict[str, Any]] = []
    for number, body, rate, classes in itertools.product(given.splits, given.bodies, given.rates, given.classes):
        place = {"split": number, "body": body, "rate": rate, "classes": classes}
        part = parts / ("-".join(map(str, place.values())) + ".json")
        if not part.exists():
            found = measured(Task(splits[number], y, classes, number), h, place | {"options": options})
            parts.mkdir(parents=True, exist_ok=True)
            write_json(part, {"lines": [place | line for line in found]})
        own = json.loads(part.read_text())["lines"]
        for line in own:
            say(", ".join(f"{name} {value}" for name, value in line.items() if name != "at_harm"))
        lines += own
    origin = {"epochs": EPOCHS, "batch": BATCH, "harm": HARM}
    save(given.out, origin | {"finetuning": {name: one._asdict() for name, one in FINETUNINGS.items()}, "lines": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
