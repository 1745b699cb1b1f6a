"""The trained methods: their losses, what is kept of them, and what classes that come do to them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from trial_data import small_task

from firstsight import HebbianSoftmax
from firstsight.lab.classify.methods import base
from firstsight.lab.classify.methods import trained as trained_methods
from firstsight.lab.classify.methods.base import asked, linear_answer
from firstsight.lab.classify.methods.catalogue import METHODS
from firstsight.lab.classify.methods.cosine import CosineSoftmax
from firstsight.lab.classify.methods.rivals import Setting, finetuned, imprinted
from firstsight.lab.classify.methods.trained import Trained
from firstsight.lab.classify.settings import Trial

TRAINED = [name for name, method in METHODS.items() if method.trained]


@pytest.fixture(autouse=True)
def _few_steps_of_replay(monkeypatch):
    monkeypatch.setattr(trained_methods, "ALL_DATA", Setting(0.03, 0.25, 120, 10**9, True))


def trained(name, task, *, body="none", seed=0):
    classifier = Trained(METHODS[name], Trial(body=body, batch=16), rate=0.03, seed=seed, epochs=1)
    classifier.fit(task)
    return classifier


def right(answer, h, y):
    return float((answer(h).argmax(1) == y).float().mean())


@pytest.mark.parametrize("body", ["none", "mlp"])
@pytest.mark.parametrize("name", TRAINED)
def test_each_learns_the_clouds_and_new_ones_in_every_way(name, body):
    task = small_task(0)
    classifier, part = trained(name, task, body=body), task.valid
    before = copy.deepcopy(classifier.state())
    assert right(classifier.answer(), part.old_h, part.old_y) > 0.8
    for arrival in METHODS[name].arrivals:
        answer = classifier.arrived(arrival, part.shown_h[:, :5])
        assert answer(part.new_h).shape[1] == task.num_classes + 3
        torch.testing.assert_close(answer(part.new_h).exp().sum(1), torch.ones(len(part.new_h)))
        if name != "paper":  # whose rows are as long as activations are
            assert right(answer, part.new_h, part.new_y) > 0.5, arrival
        again = classifier.arrived(arrival, part.shown_h[:, :5])
        assert torch.equal(answer(part.old_h), again(part.old_h)), arrival
    for key, value in classifier.state().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("body", ["none", "mlp"])
@pytest.mark.parametrize("name", ["softmax-balanced", "cosine", "sight", "paper"])
def test_what_is_restored_answers_and_meets_classes_as_what_was_trained(name, body):
    task = small_task(1)
    classifier, part = trained(name, task, body=body), task.test
    again = Trained(METHODS[name], Trial(body=body, batch=16), rate=0.03, seed=0, epochs=1)
    again.restore(task, classifier.state())
    assert torch.equal(again.answer()(part.old_h), classifier.answer()(part.old_h))
    for arrival in METHODS[name].arrivals:
        mine, theirs = (one.arrived(arrival, part.shown_h[:, :2])(part.new_h) for one in (again, classifier))
        assert torch.equal(mine, theirs), arrival


@pytest.mark.parametrize("scale", [1e-3, 1.0, 400.0])
def test_the_unit_of_the_vectors_does_not_matter(scale):
    answers = []
    for own in (1.0, scale):
        task = small_task(2, scale=own)
        answers.append(trained("sight", task).arrived("write", task.test.shown_h[:, :5])(task.test.new_h))
    torch.testing.assert_close(*answers, rtol=1e-2, atol=1e-2)


def test_class_weights_are_those_of_scikit_learn():
    task = small_task(4)
    classifier = trained("softmax-weights", task)
    weight = compute_class_weight("balanced", classes=np.arange(task.num_classes), y=task.train_y.numpy())
    h, y = task.train_h[:9], task.train_y[:9]
    loss = classifier._loss(classifier.head, task.counts)
    assert loss is not None
    expected = F.cross_entropy(classifier.head(h), y, weight=torch.tensor(weight, dtype=torch.float32))
    torch.testing.assert_close(loss(h, y, y), expected)


@pytest.mark.parametrize("name", ["softmax-adjusted", "sight-adjusted"])
def test_logit_adjustment_adds_the_log_frequencies_in_training_alone(name):
    task = small_task(5)
    classifier = trained(name, task)
    h, y = task.train_h[:9], task.train_y[:9]
    logits = classifier.head(h)
    prior = ((task.counts + 1) / (task.counts + 1).sum()).log()
    loss = classifier._loss(classifier.head, task.counts)
    assert loss is not None
    torch.testing.assert_close(loss(h, y, y), F.cross_entropy(logits + prior, y))
    torch.testing.assert_close(classifier.answer()(h), logits.log_softmax(1))


def test_the_write_is_that_of_the_layer():
    task = small_task(6)
    classifier, shown = trained("sight", task), task.test.shown_h[:, :2]
    head = copy.deepcopy(classifier.head)
    assert isinstance(head, HebbianSoftmax)
    head.add_classes(3)
    for u in range(3):
        head.write(shown[u], torch.full((2,), task.num_classes + u))
    answer = classifier.arrived("write", shown)(task.test.new_h)
    torch.testing.assert_close(answer, head.log_prob(task.test.new_h), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_the_cosine_softmax_is_a_softmax_of_scaled_cosines(features, classes, seed):
    g = torch.Generator().manual_seed(seed)
    head = CosineSoftmax(features, classes)
    h, y = torch.randn(7, features, generator=g) * 50, torch.randint(classes, (7,), generator=g)
    logits = F.cosine_similarity(h[:, None], head.weight[None], dim=2) * head.log_scale.exp()
    torch.testing.assert_close(head.loss(h, y), F.cross_entropy(logits, y))
    answer = linear_answer(head.layer(), lambda h: F.normalize(h, dim=-1))
    torch.testing.assert_close(answer(h), logits.log_softmax(1).detach(), rtol=1e-4, atol=1e-4)


def test_imprinting_takes_the_mean_direction_length_and_bias():
    g = torch.Generator().manual_seed(0)
    layer, shown = (torch.randn(4, 3, generator=g), torch.randn(4, generator=g)), torch.randn(2, 5, 3, generator=g)
    weight, bias = imprinted(layer, shown)
    assert torch.equal(weight[:4], layer[0])
    torch.testing.assert_close(F.cosine_similarity(weight[4:], shown.mean(1)), torch.ones(2))
    torch.testing.assert_close(weight[4:].norm(dim=1), layer[0].norm(dim=1).mean().expand(2))
    torch.testing.assert_close(bias[4:], layer[1].mean().expand(2))


@pytest.mark.parametrize("all_rows", [True, False])
def test_replay_lowers_the_loss_of_all_there_is_and_moves_what_it_may(all_rows):
    task = small_task(7)
    layer, part = trained("softmax", task).layer(), task.valid
    shown, setting = part.shown_h[:, :5], Setting(0.03, 0.25, 60, 50, all_rows)
    start, end = imprinted(layer, shown), finetuned(imprinted(layer, shown), shown, task.train_h, task.train_y, setting)
    V, new_y = task.num_classes, torch.arange(3).repeat_interleave(5) + task.num_classes

    def loss(one):
        old, new = (F.cross_entropy(h @ one[0].T + one[1], y) for h, y in pairs)
        return 0.75 * old + 0.25 * new

    pairs = ((task.train_h, task.train_y), (shown.flatten(0, 1), new_y))
    assert loss(end) < 0.8 * loss(start)
    assert torch.equal(end[0][:V], start[0][:V]) is not all_rows
    assert all(map(torch.equal, end, finetuned(start, shown, task.train_h, task.train_y, setting)))


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_answers_come_in_blocks_and_what_is_no_class_yet_has_no_chance(block, monkeypatch):
    monkeypatch.setattr(base, "BLOCK", block)
    g = torch.Generator().manual_seed(1)
    weight, bias, h = torch.randn(5, 3, generator=g), torch.randn(5, generator=g), torch.randn(17, 3, generator=g)
    y = torch.arange(17) % 7
    classes, confidence, nll = asked(linear_answer((weight, bias)), h, y, 5)
    p = (h @ weight.T + bias).softmax(1)
    assert torch.equal(classes, p.argmax(1))
    torch.testing.assert_close(confidence, p.amax(1))
    known = y < 5
    torch.testing.assert_close(nll[known], -p[known, y[known]].log())
    assert nll[~known].isinf().all()
