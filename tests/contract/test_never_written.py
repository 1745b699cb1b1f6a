"""A head that is trained and never written: it works, or it is said, at the tenth step at the latest."""

import copy
import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from contract_heads import D, V, attached, batch, drawn, same, sgd, steps_of
from put_in import Sam
from torch import nn

from firstsight import HebbianSoftmax
from firstsight.heads.steps.watch import LIMIT


def test_an_optimizer_whose_step_clears_the_gradients(hebbian):
    class Clearing(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.zero_grad()

    heads = []
    for kind in (torch.optim.SGD, Clearing):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian, optimizer=lambda head, lr, kind=kind: kind(head.parameters(), lr))
        for seed in range(4):
            optimizer.zero_grad()
            head.loss(*batch(seed=seed)).backward()
            optimizer.step()
        heads.append(head)
    assert same(*heads)
    assert heads[0].counts.sum() == V + 4 * 12


def train_sam(head, sam, steps, closure=False):
    for seed in range(steps):

        def again(seed=seed):
            loss = head.loss(*batch(seed=seed))
            loss.backward()
            return loss

        again()
        if closure:
            sam.step(again)
        else:
            sam.first_step()
            again()
            sam.second_step()


def test_sam(hebbian):
    """Attached to the optimizer that steps each batch is written once; attached to the other it is said, or works."""
    heads = []
    for where in ("inner", "closure"):
        torch.manual_seed(0)
        head = drawn(hebbian(D, V, dtype=torch.float64))
        sam = Sam(head.parameters(), torch.optim.SGD, lr=0.1)
        head.attach(sam.base_optimizer if where == "inner" else sam)
        train_sam(head, sam, 6, closure=where == "closure")
        heads.append(head)
        assert head.counts.sum() == V + 6 * 12
    assert torch.allclose(heads[0].weight, heads[1].weight)
    head = drawn(hebbian(D, V, dtype=torch.float64))
    sam = Sam(head.parameters(), torch.optim.SGD, lr=0.1)
    head.attach(sam)
    with pytest.warns(UserWarning, match="Attach to that one; with SAM to its base_optimizer"):
        train_sam(head, sam, LIMIT // 2 + 1)
    assert head.counts.sum() == V


def test_a_loss_that_the_head_does_not_know_of(hebbian):
    head, optimizer = attached(hebbian)
    with pytest.warns(UserWarning, match=r"shown nothing to write.*head.loss or head.nll.*head.observe"):
        steps_of(head, optimizer, LIMIT, lambda h, y: F.cross_entropy(head(h), y))
    assert head.counts.sum() == V


def test_a_head_left_in_evaluation_mode(hebbian):
    head, optimizer = attached(hebbian)
    head.eval()
    with pytest.warns(UserWarning, match="evaluation mode"):
        steps_of(head, optimizer, LIMIT)


def test_another_optimizer_steps(hebbian):
    head, optimizer = attached(hebbian)
    other = sgd(head)
    with pytest.warns(UserWarning, match="Does another optimizer step"):
        steps_of(head, other, LIMIT + 1)
    assert head.counts.sum() == V
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps_of(head, optimizer, 3)
    assert head.counts.sum() == V + 3 * 12


@pytest.mark.parametrize("how", ["never attached", "a copy", "logits"])
def test_a_head_that_nobody_attached(hebbian, how):
    head, optimizer = attached(hebbian)
    head = copy.deepcopy(head) if how == "a copy" else hebbian(D, V, dtype=torch.float64)
    loss = (lambda h, y: F.cross_entropy(head(h), y)) if how == "logits" else None
    with pytest.warns(UserWarning, match=r"attached to no optimizer.*head.attach\(optimizer\)"):
        steps_of(head, sgd(head), LIMIT, loss)
    del optimizer


@pytest.mark.parametrize("why", ["let go", "evaluation", "no gradient", "frozen", "few"])
def test_nothing_is_said_of_what_is_meant(hebbian, why):
    head, optimizer = attached(hebbian)
    if why == "let go":
        head._detach(id(optimizer))
    else:
        head = copy.deepcopy(head)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if why == "let go":
            steps_of(head, optimizer, 2 * LIMIT)
        elif why == "few":
            steps_of(head, sgd(head), LIMIT - 1)
        else:
            head.train(why != "evaluation")
            head.requires_grad_(why != "frozen")
            for seed in range(2 * LIMIT):
                with torch.set_grad_enabled(why != "no gradient"):
                    head.loss(batch(seed=seed)[0].requires_grad_(), batch(seed=seed)[1])


def test_an_optimizer_that_took_the_place_of_the_one_attached(hebbian):
    head, optimizer = attached(hebbian)
    steps_of(head, optimizer, 2)
    optimizer = sgd(head)
    gc.collect()
    with pytest.warns(UserWarning, match="for each that takes its place"):
        steps_of(head, optimizer, LIMIT)


def test_two_optimizers_in_turn_of_which_one_is_attached(hebbian):
    head, optimizer = attached(hebbian, lr=1e-4)
    other = sgd(head, 1e-4)

    def in_turn():
        for _ in range(LIMIT + 2):
            steps_of(head, other, 1)
            steps_of(head, optimizer, 1)

    with pytest.warns(UserWarning, match="moved by something else than the optimizer"):
        in_turn()


def test_every_other_step_by_a_loss_that_the_head_does_not_know_of(hebbian):
    head, optimizer = attached(hebbian)

    def in_turn():
        for _ in range(LIMIT):
            steps_of(head, optimizer, 1)
            steps_of(head, optimizer, 1, lambda h, y: F.cross_entropy(head(h), y))

    with pytest.warns(UserWarning, match="shown nothing to write in them"):
        in_turn()


def test_a_layer_whose_classes_are_all_left_alone(hebbian):
    if hebbian is not HebbianSoftmax:
        pytest.skip("the subclasses of the battery take a rule of their own")
    for head in (HebbianSoftmax.from_linear(nn.Linear(D, V), "trained"), HebbianSoftmax(D, V, T=1)):
        optimizer = sgd(head)
        head.attach(optimizer)
        with pytest.warns(UserWarning, match="ten steps wrote nothing"):
            steps_of(head, optimizer, LIMIT, lambda h, y, head=head: head.loss(h.float(), y))
