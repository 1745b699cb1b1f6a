"""The loop of the curriculum: pace, pairing, growth, measures."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curriculum_runs import TINY, events, lasting, prototypes, run

from firstsight.errors import InputError
from firstsight.lab.curriculum import loop
from firstsight.lab.curriculum.draws import Drawings
from firstsight.lab.curriculum.model import Classifier, build_optimizer

HEADS = [{"head": "softmax"}, {"rule": "paper"}, {"rule": "centered"}]


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adagrad"])
@pytest.mark.parametrize("head", ["softmax", "hebbian"])
def test_it_learns_what_is_easily_told_apart(head, optimizer):
    found = run(settings=TINY.replace(head=head, optimizer=optimizer, max_steps=200, threshold=0.8))
    assert (found["reason"], found["classes"]) == ("classes", 12)
    assert found["final"]["accuracy_all"] >= 0.8


def test_the_same_seed_is_the_same_run():
    one, two, other = (lasting(run(settings=TINY.replace(seed=seed))) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_torchs_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    run(settings=TINY.replace(max_steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def script(monkeypatch, accuracies) -> None:
    """Checks find these accuracies, one after the other; then 0."""
    left = iter(accuracies)

    def right(self, images_BSS, label_B, classes=None):
        count = len(images_BSS)  # 100 in a check alone: other measures are of whole classes, and of fewer
        return torch.arange(count) < count * (next(left, 0.0) if count == 100 else 0.0)

    monkeypatch.setattr(Classifier, "right", right)


def paces(monkeypatch, accuracies, **settings) -> list[tuple[int, int]]:
    with monkeypatch.context() as patch:
        script(patch, accuracies)
        found = run(prototypes(36), TINY.replace(check_images=100, start=30, **settings))
    return [(r["step"], r["classes"]) for r in events(found, "addition")]


@pytest.mark.parametrize(
    ("accuracies", "settings", "expected"),
    [
        ([0.55, 0.6, 0.5, 0.65], {}, [(4, 33), (6, 36)]),
        ([0.5, 0.6, 0.6, 0.5], {}, [(4, 33), (4, 36)]),  # two in a row
        ([0.6] * 9, {"additions": 1}, [(2, 33), (4, 36)]),
        ([0.6] * 9, {"add": 1, "additions": 2}, [(2, 31), (2, 32), (4, 33), (4, 34), (6, 35), (6, 36)]),
        ([0.6] * 9, {"add": 4}, [(2, 34), (2, 36)]),
        ([0.6] * 9, {"max_classes": 34}, [(2, 33), (2, 34)]),
        ([0.6] * 9, {"max_classes": 30}, []),
        ([0.99, 1.0, 0.99], {"threshold": 1.0}, [(4, 33)]),
        ([0.4, 0.39, 0.9, 0.3, 0.8], {"reading": "error"}, [(4, 33), (6, 36)]),
        ([0.0] * 9, {"reading": "error", "additions": 1}, [(2, 33), (4, 36)]),
    ],
)
def test_the_pace(monkeypatch, accuracies, settings, expected):
    assert paces(monkeypatch, accuracies, **{"max_steps": 6, **settings}) == expected


def test_it_ends_once_the_threshold_is_reached_with_all_classes(monkeypatch):
    settings = TINY.replace(start=30, check_images=100, max_steps=7)
    script(monkeypatch, [0.6, 0.6, 0.1, 0.6])
    found = run(prototypes(36), settings)
    assert (found["reason"], found["steps"], found["classes"]) == ("classes", 4, 36)
    script(monkeypatch, [])
    found = run(prototypes(36), settings)
    assert (found["reason"], found["steps"], found["classes"]) == ("steps", 7, 30)


def seen_batches(monkeypatch, **changes) -> dict[int, tuple[int, list[int], torch.Tensor]]:
    """Of each step: n, labels and images."""
    seen = {}
    batch = Drawings.batch

    def spy(self, step, n, size):
        images_BSS, label_B = batch(self, step, n, size)
        seen[step] = n, label_B.tolist(), images_BSS
        return images_BSS, label_B

    with monkeypatch.context() as patch:
        patch.setattr(Drawings, "batch", spy)
        run(settings=TINY.replace(**changes))
    return seen


def test_variants_are_paired(monkeypatch):
    runs = [seen_batches(monkeypatch, **changes) for changes in [*HEADS, {"optimizer": "rmsprop"}]]
    alike = 0
    for other in runs[1:]:
        for step in set(runs[0]) & set(other):
            (n, labels, images), (other_n, other_labels, other_images) = runs[0][step], other[step]
            if n == other_n:
                alike += 1
                assert labels == other_labels
                assert torch.equal(images, other_images)
    assert alike > 20


def test_variants_start_with_the_same_weights_and_grow_by_the_same_rows():
    starts = []
    for changes in HEADS:
        trainer = loop._Loop(prototypes(), TINY.replace(**changes), lambda record: None, None, "cpu")
        trainer.model.right = lambda *_: torch.ones(4, dtype=torch.bool)
        trainer._add(1.0)
        starts.append(dict(trainer.model.named_parameters()))
    for other in starts[1:]:
        assert list(other) == list(starts[0])
        assert all(torch.equal(other[name], starts[0][name]) for name in other)
    assert starts[0]["head.weight"].shape == (7, 8)


def test_a_class_has_a_row_and_a_state_from_its_introduction_on(monkeypatch):
    sizes = []
    loss = Classifier.loss

    def spy(self, images_BSS, label_B):
        sizes.append((self.head.num_classes, int(label_B.max())))
        return loss(self, images_BSS, label_B)

    monkeypatch.setattr(Classifier, "loss", spy)
    trainers = []
    make = loop._Loop.__init__
    monkeypatch.setattr(loop._Loop, "__init__", lambda self, *a: (trainers.append(self), make(self, *a))[1])
    found = run(settings=TINY)
    expected, additions = [], events(found, "addition")
    for step in range(found["steps"]):
        expected.append(max([4, *(r["classes"] for r in additions if r["step"] <= step)]))
    assert [classes for classes, _ in sizes] == expected
    assert all(label < classes for classes, label in sizes)
    state = trainers[0].optimizer.state[trainers[0].model.head.weight]
    assert state["exp_avg"].shape == (12, 8)


def test_optimizers_take_their_settings():
    model = Classifier(16, TINY)
    for name, group in {
        "rmsprop": {"lr": 0.006, "alpha": 0.9},
        "adam": {"lr": 0.006},
        "adagrad": {"lr": 0.08, "initial_accumulator_value": 0.1},
    }.items():
        made = build_optimizer(model, TINY.replace(optimizer=name, smoothing=0.9, accumulator=0.1))
        assert group.items() <= made.param_groups[0].items()


def test_right_by_hand():
    torch.manual_seed(0)
    model = Classifier(16, TINY.replace(start=6))
    images, labels = torch.from_numpy(prototypes(10)[:, 0].repeat(13, 0)), torch.arange(130) % 6
    assert model.right(images, labels).shape == (130,)
    with torch.no_grad():
        logits = F.linear(model.eval().body(images), model.head.weight, model.head.bias)
    assert torch.equal(model.right(images, labels), logits.argmax(1) == labels)
    assert torch.equal(model.right(images, labels, 3), logits[:, :3].argmax(1) == labels)
    assert model.training


def test_records_and_summary(monkeypatch):
    monkeypatch.setattr(loop, "MILESTONES", (4, 7, 9, 100))
    told = []
    found = run(settings=TINY, progress=told.append)
    assert told == found["records"]
    additions, oldest = events(found, "addition"), events(found, "oldest")
    assert [r["classes"] for r in additions] == [7, 10, 12]
    assert [r["classes"] for r in oldest] == [4, 7, 10]  # before the first addition, then at the milestones
    assert found["steps_to"] == {"4": 0, "7": additions[0]["step"], "9": additions[1]["step"], "100": None}
    assert oldest[0]["accuracy"] == oldest[0]["among_themselves"] == additions[0]["accuracy"]  # all 20, both times
    checks = events(found, "check")
    assert [r["images"] for r in checks] == [5 * r["classes"] for r in checks]
    assert {r["step"] for r in checks} == set(range(2, found["steps"] + 1, 2))
    assert len([r for r in checks if r["accuracy"] >= 0.6]) == len(additions) + 1
    assert found["final"]["accuracy_all"] == checks[-1]["accuracy"]
    assert found["final"]["among_themselves"] >= found["final"]["accuracy"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    seconds = [r["seconds"] for r in found["records"]]
    assert seconds == sorted(seconds)
    assert sum(found["seconds"].values()) == pytest.approx(seconds[-1], abs=0.5)


def test_new_classes_are_measured_as_they_are_shown(monkeypatch):
    """Presentations counted again from the batches; every class that has been shown so often is in the summary."""
    seen = seen_batches(monkeypatch)
    found = run(settings=TINY)
    counts = np.bincount([label for _, labels, _ in seen.values() for label in labels], minlength=12)[4:]
    for k, measured in found["binding"].items():
        assert measured["new_classes"] == (counts >= int(k)).sum()
    for record in events(found, "bound"):
        until = [label for step, (_, labels, _) in seen.items() if step < record["step"] for label in labels]
        group = np.bincount(until, minlength=12)[record["first"] : record["first"] + 3]
        assert group.min() >= record["presentations"]


def test_divergence_is_an_end_with_a_result(tmp_path):
    settings = TINY.replace(head="softmax", optimizer="rmsprop", lr=1e36)
    found = run(settings=settings, out=tmp_path)
    assert found["reason"] == "diverged"
    assert found["steps"] < 10
    json.dumps(found, allow_nan=False)
    assert lasting(run(settings=settings, out=tmp_path)) == lasting(found)


def test_a_signal_ends_it_after_the_step_with_a_checkpoint(tmp_path):
    def end(record):
        if record["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    found = run(progress=end, out=tmp_path)
    assert (found["reason"], found["steps"]) == ("SIGTERM", 6)
    assert not (tmp_path / "result.json").exists()
    assert lasting(run(out=tmp_path)) == lasting(run())


@pytest.mark.parametrize(("settings", "name"), [({"start": 13}, "start"), ({"max_classes": 13}, "max_classes")])
def test_more_classes_than_there_are(settings, name):
    with pytest.raises(InputError, match=f"{name} is 13, but the images have 12 classes"):
        run(settings=TINY.replace(**settings))


def test_images_too_small():
    with pytest.raises(InputError, match="8 x 8; expected 16 x 16 or more"):
        run(prototypes()[:, :, :8, :8])


def test_not_a_number_is_not_right():
    model = Classifier(16, TINY)
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    images = torch.from_numpy(prototypes()[:3, 0])
    assert model.right(images, torch.tensor([1, 2, 3])).tolist() == [False] * 3
