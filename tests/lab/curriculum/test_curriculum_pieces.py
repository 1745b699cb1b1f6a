"""The curriculum's settings, what chance decides in it, and its measure of binding."""

import math

import numpy as np
import pytest
import torch
from curriculum_runs import DRAWINGS, TINY, prototypes

from firstsight.errors import InputError
from firstsight.lab.curriculum import Curriculum
from firstsight.lab.curriculum.binding import PRESENTATIONS, Binding
from firstsight.lab.curriculum.draws import Drawings
from firstsight.lab.data.omniglot import TEST_DRAWINGS


def numbered(classes: int = 12) -> np.ndarray:
    """Images that say in their first pixels which class and which drawing they are."""
    images = np.zeros((classes, DRAWINGS, 16, 16), dtype=np.uint8)
    images[:, :, 0, 0] = np.arange(classes)[:, None]
    images[:, :, 0, 1] = np.arange(DRAWINGS)
    return images


def test_labels_are_places_in_the_order():
    draws = Drawings(numbered(), seed=3)
    assert sorted(draws.order) == list(range(12))
    for images_BSS, label_B in (draws.batch(5, 8, 40), draws.check(5, 8, 20), draws.tests_of(np.arange(4))):
        assert images_BSS[:, 0, 0].tolist() == draws.order[label_B.numpy()].tolist()


def test_batches_are_of_training_drawings_of_the_classes_so_far():
    draws = Drawings(numbered(), seed=0)
    images_BSS, label_B = draws.batch(0, 8, 4000)
    counts = torch.bincount(label_B, minlength=12)
    assert (counts[:8] > 400).all()
    assert (counts[8:] == 0).all()
    drawings = torch.bincount(images_BSS[:, 0, 1].long(), minlength=DRAWINGS)
    assert (drawings[:TEST_DRAWINGS] == 0).all()
    assert (drawings[TEST_DRAWINGS:] > 400).all()


def test_draws_depend_on_the_seed_and_the_step_alone():
    one, other = Drawings(prototypes(), seed=1), Drawings(prototypes(), seed=1)
    one.batch(0, 12, 5)
    one.check(0, 12, 5)
    for draw in ("batch", "check"):
        mine = getattr(one, draw)(7, 6, 9)
        assert all(torch.equal(a, b) for a, b in zip(mine, getattr(other, draw)(7, 6, 9), strict=True))
        for seed, step in ((1, 8), (2, 7)):
            assert not torch.equal(mine[0], getattr(Drawings(prototypes(), seed), draw)(step, 6, 9)[0])
    assert one.order.tolist() == other.order.tolist() != Drawings(prototypes(), 2).order.tolist()


def test_batches_of_runs_with_other_numbers_of_classes_share_their_random_numbers():
    draws = Drawings(prototypes(), seed=1)
    few, many = (draws.batch(3, n, 1000)[1] for n in (6, 12))
    assert torch.equal(few, many // 2)


def test_checks_are_of_test_drawings_each_at_most_once():
    draws = Drawings(numbered(), seed=0)
    for size, expected in ((0, 40), (40, 40), (100, 40), (25, 25)):
        images_BSS, label_B = draws.check(4, 8, size)
        found = set(zip(label_B.tolist(), images_BSS[:, 0, 1].tolist(), strict=True))
        assert len(found) == len(label_B) == expected
        assert {drawing for _, drawing in found} == set(range(TEST_DRAWINGS))
        assert {label for label, _ in found} <= set(range(8))
    assert draws.check(4, 8, 25)[1].tolist() != draws.check(4, 7, 25)[1].tolist()


def test_read_only_images_are_taken():
    images = prototypes()
    images.flags.writeable = False
    assert Drawings(images, seed=0).facts["classes"] == 12


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 9, 16, 16), dtype=np.float32), r"images is \[3, 9, 16, 16\] float32; expected .* uint8"),
        (np.zeros((3, 9, 16, 17), dtype=np.uint8), r"images is \[3, 9, 16, 17\] uint8; expected"),
        (np.zeros((3, 16, 16), dtype=np.uint8), r"images is \[3, 16, 16\] uint8; expected"),
        (np.zeros((3, 5, 16, 16), dtype=np.uint8), "5 drawings a class; expected more than 5"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(InputError, match=message):
        Drawings(images, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, r"threshold is 0.0; expected in \(0, 1\]"),
        ({"threshold": 1.01}, r"threshold is 1.01; expected in \(0, 1\]"),
        ({"threshold": math.nan}, "threshold is nan; expected a finite number"),
        ({"start": 0}, "start is 0; expected 1 or more"),
        ({"add": 0}, "add is 0; expected 1 or more"),
        ({"max_classes": 29}, "max_classes is 29; expected 0, or at least the 30 of the start"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of rmsprop, adam, adagrad"),
        ({"head": "cosine"}, "head is 'cosine'; expected one of softmax, hebbian"),
        ({"rule": "hebb"}, "rule is 'hebb'; expected one of paper, scaled"),
        ({"rule": "shrinkage", "bias": False}, "rule is 'shrinkage'; expected bias to be true"),
        ({"gamma": 1.1}, r"gamma is 1.1; expected in \[0, 1\]"),
        ({"lr": -0.1}, "lr is -0.1; expected 0 or more"),
        ({"smoothing": 1.0}, r"smoothing is 1.0; expected in \[0, 1\)"),
        ({"batch": 2.5}, "batch is 2.5; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected from 0 to"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Curriculum(**settings)


def test_the_papers_settings_are_the_defaults_but_for_the_rule():
    papers = Curriculum()
    assert (papers.start, papers.add, papers.threshold, papers.T, papers.gamma) == (30, 5, 0.6, 10, 0.1)
    assert (papers.rule, papers.network.dropout) == ("sight", 0.2)
    assert [Curriculum(optimizer=name).rate for name in ("rmsprop", "adam", "adagrad")] == [0.006, 0.006, 0.08]
    assert Curriculum(lr=0.5).rate == 0.5


@pytest.mark.parametrize(
    ("reading", "threshold", "passing"),
    [("accuracy", 0.6, [0.6, 0.61, 1.0]), ("error", 0.6, [0.0, 0.39]), ("accuracy", 1.0, [1.0]), ("error", 1.0, [])],
)
def test_the_threshold_in_both_readings(reading, threshold, passing):
    settings = Curriculum(reading=reading, threshold=threshold)
    assert [x for x in (0.0, 0.39, 0.4, 0.59, 0.6, 0.61, 1.0) if settings.passes(x)] == passing


def test_settings_go_to_a_dictionary_and_back():
    assert Curriculum.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(InputError, match="here: unknown setting chekc_every"):
        Curriculum.from_dict({"chekc_every": 3}, "here")
    with pytest.raises(InputError, match="here, network: unknown setting depth"):
        Curriculum.from_dict({"network": {"depth": 3}}, "here")


def show(binding: Binding, labels: list[int], accuracies: dict[int, float], n: int) -> list[tuple]:
    due = binding.present(torch.tensor(labels))
    assert due.tolist() == sorted(accuracies)
    records = binding.measured(due, torch.tensor([accuracies[label] for label in due.tolist()], dtype=torch.float64), n)
    return [(r["first"], r["presentations"], r["accuracy"], r["classes"]) for r in records]


def test_binding_by_hand():
    """Two classes from the start, then additions of two and, at the end, of one."""
    binding = Binding(start=2, add=2, total=5)
    assert show(binding, [0, 0, 1], {}, 2) == []
    assert show(binding, [2, 0], {2: 0.2}, 4) == []  # the other has not been shown yet
    assert show(binding, [2, 0], {2: 0.4}, 4) == []
    # 3 is shown twice at once: past 1 and past 2, with one accuracy. 2 is shown a third time, which is not measured.
    assert show(binding, [3, 3, 2], {3: 0.8}, 5) == [(2, 1, 0.5, 4.5), (2, 2, pytest.approx(0.6), 4.5)]
    assert show(binding, [4], {4: 1.0}, 5) == [(4, 1, 1.0, 5.0)]
    assert show(binding, [2, 2, 0, 0, 0, 0], {2: 0.6}, 5) == []  # five times in all
    assert binding.summary() == {
        "1": {"new_classes": 3, "accuracy": pytest.approx(2 / 3)},
        "2": {"new_classes": 2, "accuracy": pytest.approx(0.6)},
        "5": {"new_classes": 1, "accuracy": pytest.approx(0.6)},
        "10": {"new_classes": 0, "accuracy": None},
        "20": {"new_classes": 0, "accuracy": None},
    }


def test_binding_goes_on_from_its_state():
    one, other = Binding(1, 1, 3), Binding(1, 1, 3)
    one.measured(one.present(torch.tensor([1, 1])), torch.tensor([0.5]), 2)
    other.restore(one.state())
    assert other.present(torch.tensor([1])).tolist() == []
    assert other.present(torch.tensor([1, 1, 2])).tolist() == [1, 2]
    assert PRESENTATIONS == (1, 2, 5, 10, 20)
