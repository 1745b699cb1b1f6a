"""New classes and casts, refusals, changes of rule, saved states, no bias: each of these went wrong once."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from trained_head import NEW, D, V, draw, trained

from firstsight import HebbianSoftmax, InputError, attach
from firstsight.heads.kept.fresh import COUNTED, SHOWN, TAUGHT, TRAINED
from firstsight.heads.kept.fresh import NEW as COMING

HEAD = trained()
X, Y = draw(range(V), 24).flatten(0, 1), torch.arange(V).repeat_interleave(24)
NEW_X, NEW_Y = draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW)


def found(head, classes, seed=6):
    h = draw(classes, 40, seed=seed).to(head.weight.dtype)
    return float((head(h).argmax(2) == torch.tensor(list(classes))[:, None]).double().mean())


def sgd(layer, lr=1e-3):
    return torch.optim.SGD(layer.parameters(), lr=lr)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_of_the_model_does_not_spoil_what_is_known(bias, dtype):
    """Moments that are rounded to bfloat16 with it leave nothing of a covariance beside a large mean."""
    head = trained(bias=bias, off=5.0)
    h = draw(range(V), 40, seed=6, off=5.0)
    before = float((head(h).argmax(2) == torch.arange(V)[:, None]).double().mean())
    head = head.to(dtype)
    assert head.moments.dtype in (torch.float32, torch.float64)
    head.add_classes(NEW)
    head.write(draw(range(V, V + NEW), 1, seed=5, off=5.0)[:, 0].to(dtype), NEW_Y)
    after = float((head(h.to(dtype)).argmax(2) == torch.arange(V)[:, None]).double().mean())
    assert before - after < 0.05


def test_an_adopted_layer_whose_moments_were_rounded_says_so():
    linear = HEAD.to_linear()
    handle = attach(linear, sgd(linear), counts="trained")
    with torch.no_grad(), handle.head.looking():
        handle.labels(Y)
        linear(X)
    linear.to(torch.bfloat16)
    handle.head.add_classes(1)
    with pytest.warns(UserWarning, match="rounded by a cast"):
        handle.head.write(NEW_X[:1].bfloat16(), torch.tensor([V]))


@pytest.mark.parametrize("refused", [{"T": -1}, {"rule": "nope"}, {"price": 0}, {"cap": 2}, {"new": 3}, "optimizer"])
def test_a_refused_attach_leaves_the_layer_as_it_was(refused):
    linear = HEAD.to_linear()
    handle = attach(linear, sgd(linear), counts="trained", new=[3])
    with torch.no_grad(), handle.head.looking():
        handle.labels(Y)
        linear(X)
    handle.remove()
    before = {name: value.clone() for name, value in linear.named_buffers()}
    optimizer = sgd(torch.nn.Linear(2, 2)) if refused == "optimizer" else sgd(linear)
    with pytest.raises(InputError):
        attach(linear, optimizer, **({} if refused == "optimizer" else refused))
    now = dict(linear.named_buffers())
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_trained_rows_stay_the_gradients_under_another_rule_too():
    linear = HEAD.to_linear()
    attach(linear, sgd(linear), counts="trained").remove()
    optimizer = sgd(linear)
    handle = attach(linear, optimizer, rule="paper")  # it goes on
    assert (linear.firstsight_counts == 500).all()
    before = linear.weight.detach().clone()
    handle.labels(Y[::24])
    F.cross_entropy(linear(X[::24]), Y[::24]).backward()
    optimizer.step()
    torch.testing.assert_close(linear.weight, before, rtol=0, atol=1e-2)


@pytest.mark.parametrize("primed", [True, False])
def test_classes_that_come_before_any_training_are_like_all_others(primed):
    heads = []
    for rule in ("sight", "centered"):
        torch.manual_seed(0)
        head = HebbianSoftmax(D, 10, T=20, gamma=0.05, rule=rule)
        head.add_classes(V - 10)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
        head.attach(optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if primed:
                head.write(draw(range(V), 1, seed=3)[:, 0], torch.arange(V))
            for part in torch.randperm(len(Y)).split(60):
                optimizer.zero_grad()
                head.loss(X[part], Y[part]).backward()
                optimizer.step()
        heads.append(head)
    assert not heads[0].fresh.any()
    if not primed:
        assert torch.equal(heads[0].weight, heads[1].weight)
    assert abs(found(heads[0], range(V)) - found(heads[1], range(V))) < 0.02


@pytest.mark.parametrize("counts", ["trained", [24] * V])
def test_a_saved_state_still_knows_that_it_was_a_trained_layer(counts):
    head = HebbianSoftmax.from_linear(HEAD.to_linear(), counts)
    with torch.no_grad(), head.looking():
        head.nll(X, Y)
    saved = io.BytesIO()
    torch.save(head.state_dict(), saved)
    saved.seek(0)
    other = HebbianSoftmax(D, V)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for one in (head, other):
        one.attach(sgd(one))
        one.add_classes(NEW)
        one.write(NEW_X, NEW_Y)
        assert one.fresh.tolist() == [TAUGHT if counts == "trained" else COUNTED] * V + [SHOWN] * NEW
        assert found(one, range(V, V + NEW)) > 0.45


def test_a_state_of_another_rule_is_refused_with_a_hint():
    state = HebbianSoftmax(D, V, rule="paper").state_dict()
    with pytest.raises(RuntimeError, match=r"made with rule='paper', T=500, gamma=0\.01, and .* rule='sight'"):
        HebbianSoftmax(D, V).load_state_dict(state)
    del state["settings"]  # as states of before there were any
    with pytest.raises(RuntimeError, match='rule="paper" once'):
        HebbianSoftmax(D, V).load_state_dict(state)


def test_what_inference_mode_has_seen_can_be_trained_on():
    head = HebbianSoftmax.from_linear(HEAD.to_linear(), "trained")
    with torch.inference_mode(), head.looking():
        head.nll(X, Y)
    with torch.inference_mode():
        head.add_classes(NEW)
        head.write(NEW_X, NEW_Y)
    optimizer = sgd(head)
    head.attach(optimizer)
    head.loss(X, Y).backward()
    optimizer.step()
    head.load_state_dict(head.state_dict())
    assert found(head, range(V)) > 0.9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_nothing_has_changed(value):
    head, bad = copy.deepcopy(HEAD), NEW_X[:2].clone()
    bad[1, 3] = value
    head.add_classes(2)
    before = {name: kept.clone() for name, kept in head.state_dict().items()}
    with pytest.raises(InputError, match="NaN or infinity"):
        head.write(bad, NEW_Y[:2])
    with pytest.raises(InputError, match="NaN or infinity"), head.looking():
        head.nll(bad, NEW_Y[:2])
    assert all(torch.equal(kept, before[name]) for name, kept in head.state_dict().items())
    head.write(bad, torch.tensor([V, -100]))  # what does not count may hold anything


@pytest.mark.parametrize("how", ["fused", "data"])
def test_changes_that_leave_no_version_are_seen(how):
    head = copy.deepcopy(HEAD)
    head.add_classes(2)
    head.write(NEW_X[:1], NEW_Y[:1])
    if how == "data":
        head.bias.data[:V] += 50
        head.write(NEW_X[1:2], NEW_Y[1:2])
        assert head.bias[V + 1] > head.bias[:V].mean() - 20
        return
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03, fused=True)
    other = copy.deepcopy(head)
    for part in torch.randperm(len(Y)).split(128):
        optimizer.zero_grad()
        F.cross_entropy(head(X[part]), Y[part]).backward()
        optimizer.step()
    other.load_state_dict(head.state_dict())
    for one in (head, other):
        one.write(NEW_X[1:2], NEW_Y[1:2])
    assert torch.equal(head.bias, other.bias)


@pytest.mark.parametrize("record", [True, False])
def test_a_cap_leaves_classes_that_were_seen_t_times_alone_and_records_what_it_moves(record):
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, T=3, gamma=0.05, bias=False, record=record, cap=0.001)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    handle = head.attach(optimizer)
    for part in (batch for _ in range(6) for batch in torch.randperm(len(Y)).split(128)):
        optimizer.zero_grad()
        head.loss(X[part], Y[part]).backward()
        optimizer.step()
    handle.remove()
    head.add_classes(3)
    start = head.weight.detach() - (head.written if record else 0)
    head.write(draw([V], 5, seed=1)[0], torch.full((5,), V))
    known = head.weight[V].detach().clone()
    for i in (1, 2):
        head.write(NEW_X[i : i + 1], NEW_Y[i : i + 1])
    assert torch.equal(head.weight[V], known)
    if record:
        torch.testing.assert_close(head.weight.detach() - head.written, start, rtol=0, atol=1e-5)


def test_classes_do_not_change_under_looking():
    head = copy.deepcopy(HEAD)
    with pytest.raises(InputError, match="before or after"), head.looking():
        head.add_classes(1)
    with pytest.raises(InputError, match="before or after"), head.looking():
        head.remove_classes([1])
    assert head.num_classes == V
    assert head.fresh.tolist() == [TRAINED] * V
    head.add_classes(1)
    assert head.fresh[V] == COMING


def test_a_layer_that_a_head_has_grown_is_not_taken_over_again():
    linear = HEAD.to_linear()
    HebbianSoftmax.from_linear(linear, "trained").add_classes(2)
    with pytest.raises(InputError, match=r"has 122 rows and out_features is 120"):
        HebbianSoftmax.from_linear(linear, "trained")


def test_a_write_that_can_write_nothing_says_so():
    head = HebbianSoftmax.from_linear(HEAD.to_linear(), "trained")
    with pytest.warns(UserWarning, match="nothing was written"):
        head.write(X[:3], Y[:3])
    head = HebbianSoftmax(D, 3, T=2, rule="paper")
    head.write(torch.randn(2, D), torch.tensor([1, 1]))
    with pytest.warns(UserWarning, match="seen T times"):
        head.write(torch.randn(1, D), torch.tensor([1]))


@pytest.mark.parametrize("change", ["add_classes", "remove_classes"])
def test_an_optimizer_of_another_size_is_refused(change):
    head = HebbianSoftmax(D, V)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    head.loss(X[:9], Y[:9]).backward()
    optimizer.step()
    head.add_classes(2) if change == "add_classes" else head.remove_classes([1])
    with pytest.raises(InputError, match="Build a new optimizer, or attach before"):
        head.attach(optimizer)


@pytest.mark.parametrize(("hidden", "target"), [(X[:1], 3), (X[:1], [3]), (X[:1].numpy(), Y[:1])])
def test_what_is_no_tensor_is_named(hidden, target):
    with pytest.raises(InputError, match="expected a tensor"):
        copy.deepcopy(HEAD).write(hidden, target)


def test_options_that_were_set_to_nonsense_later_are_refused():
    head = copy.deepcopy(HEAD)
    head.add_classes(1)
    head.cap = 5
    with pytest.raises(InputError, match="cap is 5"):
        head.write(NEW_X[:1], NEW_Y[:1])
