"""The rule "sight": a class that comes to a trained layer is known from its first example, and no other is harmed."""

import copy
import io

import pytest
import torch
from trained_head import NEW, D, V, draw, trained

from firstsight import HebbianSoftmax, InputError, attach
from firstsight.functional import first_sight as module
from firstsight.heads.kept.fresh import COUNTED, SHOWN, TAUGHT, TRAINED
from firstsight.heads.kept.fresh import NEW as COMING
from firstsight.heads.kept.moments import Moments

HEAD = trained()


def met(head, examples):
    head = copy.deepcopy(head)
    head.add_classes(NEW)
    x = draw(range(V, V + NEW), examples, seed=5).to(head.weight.dtype)
    head.write(x.flatten(0, 1), torch.arange(V, V + NEW).repeat_interleave(examples))
    return head


def accuracies(head):
    new, old = draw(range(V, V + NEW), 40, seed=6), draw(range(V), 10, seed=7)
    found = [
        (head(x.flatten(0, 1).to(head.weight.dtype)).argmax(1).view(x.shape[:2]) == torch.tensor(classes)[:, None])
        for x, classes in ((new, range(V, head.num_classes)), (old, range(V)))
    ]
    return [float(one.double().mean()) for one in found if one.numel()]


@pytest.mark.parametrize(("examples", "least"), [(1, 0.45), (5, 0.85)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_trained_head_knows_a_class_at_first_sight_and_forgets_none(examples, least, bias):
    head = HEAD if bias else trained(bias=False)
    before, (new, after) = accuracies_old(head), accuracies(met(head, examples))
    assert before > 0.9
    assert new > least
    assert before - after < 0.03


def accuracies_old(head):
    old = draw(range(V), 10, seed=7)
    found = head(old.flatten(0, 1).to(head.weight.dtype)).argmax(1).view(old.shape[:2]) == torch.arange(V)[:, None]
    return float(found.double().mean())


@pytest.mark.parametrize("rule", ["centered", "direction"])
def test_the_rules_that_keep_a_rows_length_know_none(rule):
    """Why there is this one: trained rows are long, and a new one is not heard beside them."""
    new, _ = accuracies(met(trained(rule=rule), 1))
    assert new < 0.25


@pytest.mark.parametrize("bias", [True, False])
def test_examples_may_come_at_once_or_one_by_one(bias):
    head = HEAD if bias else trained(bias=False)
    at_once, one_by_one = met(head, 4), copy.deepcopy(head)
    one_by_one.add_classes(NEW)
    for x in draw(range(V, V + NEW), 4, seed=5).unbind(1):
        one_by_one.write(x, torch.arange(V, V + NEW))
    h = draw(range(V + NEW), 2, seed=8).flatten(0, 1)
    torch.testing.assert_close(at_once(h), one_by_one(h), rtol=1e-3, atol=2e-2)
    assert torch.equal(at_once.counts, one_by_one.counts)


def test_the_order_of_classes_is_of_no_account():
    together, alone = met(HEAD, 1), copy.deepcopy(HEAD)
    x = draw(range(V, V + NEW), 1, seed=5)[:, 0]
    for i in range(NEW):
        alone.add_classes(1)
        alone.write(x[i : i + 1], torch.tensor([V + i]))
    torch.testing.assert_close(alone.weight, together.weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.bias, together.bias, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [1 / 128, 128])
def test_the_length_of_activations_is_of_no_account(scale):
    """A head (W / s, b) on s h behaves as (W, b) on h."""
    scaled = copy.deepcopy(HEAD)
    with torch.no_grad():
        scaled.weight /= scale
        scaled.moments[:, 1:] *= scale
        scaled.moments[1 : 1 + D] *= scale
        scaled.moments[1 + D :] /= scale
    x, y = draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW)
    one, other = copy.deepcopy(HEAD), scaled
    for head, factor in ((one, 1), (other, scale)):
        head.add_classes(NEW)
        head.write(factor * x, y)
    h = draw(range(V + NEW), 3, seed=8).flatten(0, 1)
    torch.testing.assert_close(other(scale * h), one(h), rtol=1e-4, atol=1e-4)


def test_what_is_written_in_service_does_not_enter_the_moments_nor_the_trained_rows():
    head = met(HEAD, 3)
    assert torch.equal(head.moments, HEAD.moments)
    assert torch.equal(head.weight[:V], HEAD.weight)
    assert torch.equal(head.bias[:V], HEAD.bias)
    assert head.fresh.tolist() == [TRAINED] * V + [SHOWN] * NEW


def test_a_saved_head_goes_on_and_a_copy_too():
    head, x = met(HEAD, 1), draw(range(V, V + NEW), 1, seed=9)[:, 0]
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    buffer.seek(0)
    loaded = HebbianSoftmax(D, V + NEW, T=20, gamma=0.05, rule="sight")
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    copied = copy.deepcopy(head)
    for one in (head, loaded, copied):
        one.write(x, torch.arange(V, V + NEW))
    assert torch.equal(loaded.weight, head.weight)
    assert torch.equal(copied.bias, head.bias)


def test_in_training_a_new_class_is_known_after_the_step_that_shows_it():
    head = copy.deepcopy(HEAD)
    head.add_classes(NEW)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-4)
    head.attach(optimizer)
    x, y = draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW)
    before = head.nll(x, y).detach()
    head.loss(x, y).backward()
    optimizer.step()
    assert (head.nll(x, y) < before - 1).double().mean() > 0.9
    assert (head.fresh[V:] == SHOWN).all()
    assert accuracies_old(head) > accuracies_old(HEAD) - 0.03
    bias = head.bias[V:].detach().clone()
    for step in range(5):  # a later write as "centered" would cost 10 points of the old classes
        optimizer.zero_grad()
        head.loss(draw(range(V, V + NEW), 1, seed=20 + step)[:, 0], y).backward()
        optimizer.step()
    torch.testing.assert_close(head.bias[V:], bias, rtol=0, atol=1e-3)  # the gradient's, from the first sight on
    assert accuracies_old(head) > accuracies_old(HEAD) - 0.05
    assert accuracies(head)[0] > 0.8


def test_before_any_training_it_writes_directions():
    torch.manual_seed(0)
    head = HebbianSoftmax(D, 6, rule="sight")
    length = head.weight.detach().norm(dim=1)
    x = draw(range(6), 1)[:, 0]
    head.write(x, torch.arange(6))
    torch.testing.assert_close(head.weight.norm(dim=1), length)
    assert head(x).argmax(1).tolist() == list(range(6))
    head.add_classes(1)
    head.write(x[:1], torch.tensor([6]))
    assert head.weight.isfinite().all()


def test_a_look_is_made_anew_when_rows_were_changed_and_only_then(monkeypatch):
    calls, real = [], module.look_at
    monkeypatch.setattr("firstsight.heads.kept.fresh.look_at", lambda *given: (calls.append(1), real(*given))[1])
    head = met(HEAD, 1)
    for _ in range(3):
        head.write(draw([V], 1)[0], torch.tensor([V]))
    head.add_classes(1)
    head.write(draw([V + 1], 1)[0], torch.tensor([V + NEW]))
    assert len(calls) == 1
    with torch.no_grad():
        head.weight[0] += 0.1
    head.write(draw([V], 1)[0], torch.tensor([V]))
    assert len(calls) == 2
    head.remove_classes([3])
    head.write(draw([V], 1)[0], torch.tensor([V]))
    assert len(calls) == 3


@pytest.mark.parametrize("off", [0.0, 0.3, 1.0])
def test_without_a_bias_no_class_is_harmed_wherever_the_mean_is(off):
    head = trained(bias=False, off=off)
    h, y = draw(range(V), 10, seed=7, off=off).flatten(0, 1), torch.arange(V).repeat_interleave(10)
    before = (head(h).argmax(1) == y).double().mean()
    head.add_classes(NEW)
    for x in draw(range(V, V + NEW), 6, seed=5, off=off).unbind(1):
        head.write(x, torch.arange(V, V + NEW))
    assert head.weight.isfinite().all()
    assert (head(h).argmax(1) == y).double().mean() > before - 0.05
    new = draw(range(V, V + NEW), 10, seed=6, off=off)
    assert (head(new).argmax(2) == torch.arange(V, V + NEW)[:, None]).double().mean() > 0.8


def test_a_new_class_that_was_seen_t_times_is_only_counted():
    head = met(HEAD, 1)
    for _ in range(25):
        head.write(draw([V], 1, seed=3)[0], torch.tensor([V]))
    assert head.counts[V] == 27
    rows = head.weight.detach().clone()
    head.write(draw([V], 1, seed=4)[0], torch.tensor([V]))
    assert torch.equal(head.weight, rows)
    head = copy.deepcopy(HEAD)
    head.add_classes(1)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    head.attach(optimizer, after=1)
    for kind in (COMING, SHOWN):  # the first step only counts
        head.loss(draw([V], 1)[0], torch.tensor([V])).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert head.fresh[V] == kind


def test_a_layer_that_saw_too_little_says_so_and_keeps_the_class_for_later():
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V, rule="sight")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    handle = head.attach(optimizer)
    x, y = draw(range(V), 24).flatten(0, 1), torch.arange(V).repeat_interleave(24)

    def step(which):
        optimizer.zero_grad()
        head.loss(x[which], y[which]).backward()
        optimizer.step()

    step(slice(None, None, 7))
    handle.remove()
    head.add_classes(1)
    with pytest.warns(UserWarning, match="as the rule 'centered' writes it"):
        head.write(draw([V], 1)[0], torch.tensor([V]))
    assert head.fresh[V] == COMING
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    head.attach(optimizer)
    for part in torch.randperm(3 * len(y)).remainder(len(y)).split(60):
        step(part)
    head.write(draw([V], 4)[0], torch.tensor([V] * 4))
    assert head.fresh[V] == SHOWN
    assert (head(draw([V], 20, seed=6)[0]).argmax(1) == V).double().mean() > 0.5


@pytest.mark.parametrize("spoil", ["rows", "bias", "mixed", "reset"])
def test_no_look_outlives_what_it_saw(spoil, monkeypatch):
    head, calls = met(HEAD, 1), []
    real = module.look_at
    monkeypatch.setattr("firstsight.heads.kept.fresh.look_at", lambda *given: (calls.append(1), real(*given))[1])
    with torch.no_grad():
        if spoil == "rows":
            head.weight[:V] *= 2
        elif spoil == "bias":
            head.bias[:V] += 1
        elif spoil == "mixed":
            head.counts[0] = 2  # a rare class, which is written along with a new one
            head.write(draw([0, V], 1)[:, 0], torch.tensor([0, V]))
            calls.clear()
        else:
            moments, counts, fresh = head.moments.clone(), head.counts.clone(), head.fresh.clone()
            head.reset_parameters()
            head.moments, head.counts, head.fresh = moments, counts, fresh
    head.add_classes(1)
    head.write(draw([V], 1)[0], torch.tensor([V]))
    assert calls == [1]


def test_where_there_is_nothing_to_tell_classes_by_it_writes_as_centered():
    head = copy.deepcopy(HEAD)
    with torch.no_grad():
        head.weight.zero_()
    head.add_classes(1)
    with pytest.warns(UserWarning, match="as the rule 'centered' writes it"):
        head.write(draw([V], 1)[0], torch.tensor([V]))
    assert head.weight.isfinite().all()


def test_what_is_left_of_a_pending_batch_has_its_share_of_the_second_moment():
    torch.manual_seed(0)
    head = HebbianSoftmax(D, 4, rule="whitened")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    y = torch.tensor([0] * 90 + [1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    h = torch.randn(100, D, generator=torch.Generator().manual_seed(1))
    head.loss(h, y).backward()
    head.remove_classes([0])
    optimizer.step()
    found = Moments(head.moments).bare_covariance().trace() + Moments(head.moments).mean().square().sum()
    torch.testing.assert_close(found, h.square().sum(1).mean(), rtol=1e-4, atol=0)
    for bad in ([1.7], [True]):
        with pytest.raises(InputError, match="expected labels"):
            head.remove_classes(bad)


def test_an_adopted_layer_that_changes_its_rule_keeps_nothing_of_the_old_one():
    linear = torch.nn.Linear(D, 6)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    handle = attach(linear, optimizer, counts="trained")
    handle.head.add_classes(2)
    assert linear.firstsight_fresh.tolist() == [TAUGHT] * 6 + [COMING] * 2
    handle.remove()
    handle = attach(linear, optimizer)
    assert linear.firstsight_fresh.tolist() == [TAUGHT] * 6 + [COMING] * 2, "it goes on"
    handle.remove()
    handle = attach(linear, optimizer, counts=[50] * 8)
    assert linear.firstsight_fresh.tolist() == [COUNTED] * 8, "counts that are given are those of trained classes"
    handle.remove()
    attach(linear, optimizer, rule="paper")
    assert set(linear.state_dict()) == {"weight", "bias", "firstsight_counts", "firstsight_settings"}
