"""firstsight.attach: a model that computes its own loss trains as with a HebbianSoftmax in its place."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from adopted import D, Model, S, V, adam, batch, close, same, sgd, train
from torch import nn

import firstsight
from firstsight import HebbianSoftmax, InputError

RULE = {"T": 12, "gamma": 0.1, "counts": "new"}


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_the_head(tied, shift):
    model = Model(tied, shift)
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, shift=shift, **RULE)
    train(model, optimizer, 10)

    plain = Model(tied, shift)
    head = HebbianSoftmax.from_linear(plain.out, **RULE)
    other = adam(plain)
    head.attach(other)
    for step in range(10):
        tokens, labels = batch(step)
        head.loss(plain.hidden(tokens)[:, : S - shift], labels[:, shift:]).backward()
        other.step()
        other.zero_grad()

    assert torch.equal(handle.head.counts, head.counts)
    assert all(map(close, model.parameters(), plain.parameters()))
    assert not torch.equal(handle.head.counts, torch.ones(V, dtype=torch.int64))


def test_labels_handed_over_equal_the_keyword():
    model, by_hand = Model(), Model()
    optimizer, other = adam(model), adam(by_hand)
    firstsight.attach(model, optimizer, counts="new")
    handle = firstsight.attach(by_hand.out, other, counts="new")
    train(model, optimizer, 3)
    for step in range(3):
        tokens, labels = batch(step)
        handle.labels(labels)
        F.cross_entropy(by_hand(tokens).flatten(0, 1), labels.flatten()).backward()
        other.step()
        other.zero_grad()
    same(model, by_hand, torch.equal)


def test_accumulation_adds_up():
    model, whole = Model(), Model()
    optimizer, other = sgd(model), sgd(whole)
    firstsight.attach(model, optimizer, counts="new")
    firstsight.attach(whole, other, counts="new")
    tokens, labels = torch.randint(V, (4, S)), torch.randint(V, (4, S))
    for half in (slice(2), slice(2, 4)):
        (model(tokens[half], labels=labels[half]) / 2).backward()
    optimizer.step()
    whole(tokens, labels=labels).backward()
    other.step()
    same(model, whole, close)


def test_only_what_a_step_used_is_written():
    model = Model()
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    tokens, labels = batch(0)
    model(tokens, labels=labels)  # looked at, never stepped
    with torch.no_grad():
        model(tokens, labels=labels)
    model.eval()
    model(tokens)
    model(tokens, labels=labels).backward()
    optimizer.step()
    assert handle.head.counts.sum() == V


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_goes_round(assign):
    straight, first = Model(), Model()
    optimizer = sgd(straight)
    firstsight.attach(straight, optimizer, counts="new")
    train(straight, optimizer, 6)

    optimizer = sgd(first)
    firstsight.attach(first, optimizer, counts="new")
    train(first, optimizer, 3)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)

    resumed = Model()
    optimizer = sgd(resumed)
    handle = firstsight.attach(resumed, optimizer, counts="new")
    state = torch.load(saved, weights_only=True)
    assert list(state).count("out.firstsight_counts") == 1
    if assign:  # replaces the buffer; of the parameters the optimizer would lose hold
        resumed.out.firstsight_counts = state["out.firstsight_counts"].clone()
    resumed.load_state_dict(state)
    train(resumed, optimizer, 3, first=3)
    assert handle.head.counts is resumed.out.firstsight_counts
    same(straight, resumed, torch.equal)


def test_the_buffer_follows_the_model_and_the_head():
    model = Model()
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, counts=[499] * V, rule="paper")
    model.to(torch.float32)
    model.out.firstsight_counts = model.out.firstsight_counts.clone()
    train(model, optimizer, 1)
    assert model.out.firstsight_counts.sum() == 500 * V + 14  # 15 tokens, one of them ignored
    handle.head.add_classes(2)
    assert model.out.firstsight_counts[V:].tolist() == [1, 1]
    assert model.out.out_features == V + 2
    assert model(batch(0)[0], labels=batch(0)[1]).isfinite()
    handle.head.write(torch.ones(1, D), torch.tensor([V]))
    assert model.out.weight[V].tolist() == [1] * D


def test_remove_and_attach_again():
    model = Model()
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    train(model, optimizer, 2)
    before = model.out.firstsight_counts.clone()
    handle.remove()
    handle.remove()
    train(model, optimizer, 2)
    assert torch.equal(model.out.firstsight_counts, before)
    assert not {**model._forward_hooks, **model._forward_pre_hooks, **model.out._forward_hooks}
    handle = firstsight.attach(model, optimizer)
    assert torch.equal(handle.head.counts, before)
    train(model, optimizer, 1)
    assert handle.head.counts.sum() == before.sum() + 14


def test_a_copy_is_attached_to_nothing():
    model = Model()
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for other in (copy.deepcopy(model), torch.load(saved, weights_only=False)):
        train(other, adam(other), 1)  # no labels are missed, nothing is written
        F.cross_entropy(other(batch(0)[0]).flatten(0, 1), batch(0)[1].flatten()).backward()
        assert other.out.firstsight_counts.sum() == V
    assert handle.head.counts.sum() == V
    train(model, optimizer, 1)
    assert handle.head.counts.sum() == V + 14


def test_under_torch_compile():
    model, plain = Model(), Model()
    optimizer, other = adam(model), adam(plain)
    firstsight.attach(model, optimizer, counts="new")
    firstsight.attach(plain, other, counts="new")
    train(torch.compile(model, backend="eager"), optimizer, 2)
    train(plain, other, 2)
    same(model, plain, close)


def test_observe_is_what_loss_does():
    heads = [HebbianSoftmax(D, V, dtype=torch.float64) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    hidden, labels = torch.randn(S, D, dtype=torch.float64), torch.tensor([3, 3, -100, 0, 9])
    for head, own_loss in zip(heads, (True, False), strict=True):
        optimizer, logits = sgd(head), head(hidden)
        head.attach(optimizer)
        if not own_loss:
            head.observe(logits, hidden, labels)
        (head.loss(hidden, labels) if own_loss else F.cross_entropy(logits, labels)).backward()
        optimizer.step()
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=1e-12, atol=1e-12)
    assert heads[1].counts.tolist() == [2, 1, 1, 3, 1, 1, 1, 1, 1, 2, 1]
    with pytest.raises(InputError, match="target holds the label 11"):
        heads[1].observe(heads[1](hidden), hidden, labels.clamp(min=V))
    with pytest.raises(InputError, match="same leading dimensions"):
        heads[1].observe(heads[1](hidden), hidden, labels[1:])


def test_no_labels():
    model = Model()
    optimizer = adam(model)
    firstsight.attach(model, optimizer, counts="new")
    tokens, labels = batch(0)
    with pytest.raises(InputError, match=r"handle.labels\(y\)"):
        model(tokens)
    model(tokens, labels=labels)
    with pytest.raises(InputError, match="each are used once"):
        model(tokens)


def test_labels_that_do_not_fit():
    model = Model()
    optimizer = adam(model)
    handle = firstsight.attach(model, optimizer, counts="new", shift=1)
    tokens, labels = batch(0)
    with pytest.raises(InputError, match="shift"):
        model(tokens, labels=labels[:, 1:])
    for wrong in (torch.full_like(labels, V), torch.full_like(labels, -1)):
        handle.labels(wrong)
        with pytest.raises(InputError, match="expected 0 to 10"):
            model(tokens)


def test_an_output_layer_that_was_replaced():
    model = Model()
    optimizer = adam(model)
    firstsight.attach(model, optimizer, counts="new")
    model.out = nn.Linear(D, V, dtype=torch.float64)
    with pytest.raises(InputError, match="was not called"):
        model(batch(0)[0], labels=batch(0)[1])


def test_an_output_layer_that_was_resized():
    model = Model()
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    model.out.weight.data = torch.randn(V + 2, D, dtype=torch.float64)
    model.out.bias.data = torch.randn(V + 2, dtype=torch.float64)
    with pytest.raises(InputError, match=r"13 rows and counts of 11: it was resized since"):
        model(batch(0)[0], labels=batch(0)[1])
    handle.remove()
    model.out.out_features = V + 2
    handle = firstsight.attach(model, optimizer, counts=[2] * (V + 2))
    train(model, optimizer, 1)
    assert handle.head.counts.sum() == 3 * (V + 2) + 14


def test_errors_of_attach():
    model = Model()
    optimizer = adam(model)
    with pytest.raises(InputError, match=r"no nn.Linear output layer in Sequential.*Give the layer itself"):
        firstsight.attach(nn.Sequential(nn.Linear(D, V)), optimizer, counts="new")
    with pytest.raises(InputError, match="shift is -1"):
        firstsight.attach(model, optimizer, counts="new", shift=-1)
    with pytest.raises(InputError, match="does not hold this head's weight"):
        firstsight.attach(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), counts="new")
    with pytest.raises(InputError, match="counts is"):
        firstsight.attach(model, optimizer, counts=torch.ones(V + 1))
    firstsight.attach(model, optimizer, counts="new")
    with pytest.raises(InputError, match="attached already"):
        firstsight.attach(model.out, optimizer, counts="new")


def test_a_rule_with_moments_keeps_them_with_the_layer():
    linear, same = torch.nn.Linear(4, 6), torch.nn.Linear(4, 6)
    same.load_state_dict(linear.state_dict())
    hidden, target = torch.randn(8, 4), torch.arange(8) % 6
    found = []
    for layer in (linear, same):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        handle = firstsight.attach(layer, optimizer, rule="centered", counts="new")
        for part in (slice(0, 4), slice(4, 8)):
            if layer is same:  # ended and begun again: counts and moments go on
                handle.remove()
                handle = firstsight.attach(layer, optimizer, rule="centered")
            handle.labels(target[part])
            torch.nn.functional.cross_entropy(layer(hidden[part]), target[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(layer.state_dict())
    assert found[0]["firstsight_moments"].shape == (5,)
    assert found[0]["firstsight_moments"].norm() > 0
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
