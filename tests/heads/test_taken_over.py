"""A trained layer is taken over, shown what it was trained on, and meets new classes; so does one in training."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from trained_head import NEW, D, V, draw, trained

from firstsight import HebbianSoftmax, InputError, attach
from firstsight.heads.kept.fresh import NEW as COMING
from firstsight.heads.kept.fresh import SHOWN, TAUGHT, TRAINED
from firstsight.heads.kept.moments import Moments

LINEAR = trained(rule="paper").to_linear()  # the rule is of no account; only the rows are taken
X, Y = draw(range(V), 24).flatten(0, 1), torch.arange(V).repeat_interleave(24)


def found(head, classes, seed=6):
    h = draw(classes, 40, seed=seed)
    return float((head(h).argmax(2) == torch.tensor(list(classes))[:, None]).double().mean())


def plain(bias=True):
    """A layer that nobody but the gradient has made."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(D, V, bias=bias)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.03)
    for part in (batch for _ in range(12) for batch in torch.randperm(len(Y)).split(128)):
        optimizer.zero_grad()
        F.cross_entropy(linear(X[part]), Y[part]).backward()
        optimizer.step()
    return linear


PLAIN = plain()


@pytest.mark.parametrize("counts", ["trained", [24] * V])
def test_a_layer_that_was_trained_without_it_knows_a_class_at_first_sight(counts):
    linear = copy.deepcopy(PLAIN)
    before = found(linear, range(V))
    head = HebbianSoftmax.from_linear(linear, counts)
    with head.looking():
        for part in torch.arange(len(Y)).split(500):
            head.nll(X[part], Y[part])
    assert torch.equal(head.weight, PLAIN.weight), "nothing is written"
    assert head.counts.tolist() == [25] * V
    head.add_classes(NEW)
    head.write(draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW))
    assert found(head, range(V, V + NEW)) > 0.45
    assert before - found(head, range(V)) < 0.03
    assert torch.equal(head.weight[:V], PLAIN.weight)


def test_what_it_was_shown_are_its_moments():
    head = HebbianSoftmax.from_linear(copy.deepcopy(PLAIN), "trained")
    for _ in range(2):  # the second time afresh
        with head.looking(), torch.no_grad():
            for part in torch.arange(len(Y)).split(97):
                head.loss(X[part], Y[part])
    moments, h = Moments(head.moments.double()), X.double()
    torch.testing.assert_close(moments.mean(), h.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.bare_covariance(), torch.cov(h.t(), correction=0), rtol=1e-4, atol=1e-5)
    rows = PLAIN.weight.detach().double()[Y]
    cross = (rows - rows.mean(0)).t() @ (h - h.mean(0)) / len(h)
    torch.testing.assert_close(moments.cross(), cross, rtol=1e-4, atol=1e-4)
    assert moments.weight() == pytest.approx(1)


def test_what_was_not_shown_is_warned_of():
    head = HebbianSoftmax.from_linear(copy.deepcopy(PLAIN), "trained")
    head.add_classes(1)
    with pytest.warns(UserWarning, match=r"with head.looking\(\)"):
        head.write(draw([V], 1)[0], torch.tensor([V]))
    with pytest.warns(UserWarning, match=r"saw 5 examples of 24 features"), head.looking():
        head.nll(X[:5], Y[:5])


def test_looking_refuses_what_makes_no_sense_and_loses_nothing():
    head = copy.deepcopy(trained())
    before = head.moments.clone()
    with pytest.raises(InputError, match="saw no example"), head.looking():
        pass
    with pytest.raises(InputError, match="looking already"), head.looking(), head.looking():
        pass
    with pytest.raises(InputError, match="label 999"), head.looking():
        head.nll(X, torch.where(Y == 3, 999, Y))
    assert torch.equal(head.moments, before)
    assert not head.is_looking
    with pytest.raises(InputError, match="the rule paper keeps nothing"), HebbianSoftmax(D, V, rule="paper").looking():
        pass


class Model(torch.nn.Module):
    """Computes its own loss."""

    def __init__(self, linear):
        super().__init__()
        self.out = linear

    def get_output_embeddings(self):
        return self.out

    def forward(self, x, labels):
        return F.cross_entropy(self.out(x), labels)


@pytest.mark.parametrize("bias", [True, False])
def test_new_tokens_of_a_trained_model_are_known_after_the_step_that_shows_them(bias):
    old = PLAIN if bias else plain(bias=False)
    linear = torch.nn.Linear(D, V + NEW, bias=bias)
    with torch.no_grad():
        for name, value in linear.named_parameters():
            value[:V] = getattr(old, name)
    model = Model(linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    handle = attach(model, optimizer, counts="trained", new=torch.arange(V, V + NEW))
    assert linear.firstsight_fresh.tolist() == [TAUGHT] * V + [COMING] * NEW
    model.eval()
    with torch.no_grad(), handle.head.looking():
        model(X, labels=Y)
    before = found(linear, range(V))
    model.train()
    x, y = draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW)
    model(torch.cat([x, X[:200]]), labels=torch.cat([y, Y[:200]])).backward()
    optimizer.step()
    model.eval()
    assert found(linear, range(V, V + NEW)) > 0.45
    assert before - found(linear, range(V)) < 0.03
    assert (linear.firstsight_fresh[V:] == SHOWN).all()


def test_in_training_from_scratch_it_is_centered_to_the_bit_growth_and_all():
    heads = []
    for rule in ("sight", "centered"):
        torch.manual_seed(0)
        head = HebbianSoftmax(D, V, T=20, gamma=0.05, rule=rule)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
        head.attach(optimizer)
        for step, part in enumerate(torch.randperm(len(Y)).split(60)):
            if step == 40:
                head.add_classes(NEW)
            x = torch.cat([X[part], draw(range(V, V + NEW), 1, seed=step)[:, 0]] if step >= 40 else [X[part]])
            y = torch.cat([Y[part], torch.arange(V, V + NEW)] if step >= 40 else [Y[part]])
            optimizer.zero_grad()
            head.loss(x, y).backward()
            optimizer.step()
        heads.append(head)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].bias, heads[1].bias)
    assert not heads[0].fresh.any()


def test_a_write_to_a_class_that_training_has_never_met_is_a_first_sight():
    torch.manual_seed(0)
    head = HebbianSoftmax(D, V + NEW, T=20, gamma=0.05)  # room for the new ones from the start
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    head.attach(optimizer)
    for part in (batch for _ in range(6) for batch in torch.randperm(len(Y)).split(128)):
        optimizer.zero_grad()
        head.loss(X[part], Y[part]).backward()
        optimizer.step()
    head.write(draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW))
    assert head.fresh.tolist() == [TRAINED] * V + [SHOWN] * NEW
    assert found(head, range(V, V + NEW)) > 0.4


def test_a_layer_that_is_never_trained_is_a_memory_and_stays_one():
    head = HebbianSoftmax(D, V)
    other = HebbianSoftmax(D, V, rule="centered")
    other.load_state_dict(
        {
            k: v[: 1 + D, 0] if k == "moments" else v
            for k, v in head.state_dict().items()
            if k not in ("fresh", "settings")
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in (head, other):
            torch.manual_seed(1)
            for start in range(0, V, 2):  # many more than it would take to look at a trained layer
                one.write(draw(range(start, start + 2), 1)[:, 0], torch.arange(start, start + 2))
            one.add_classes(NEW)
            one.write(draw(range(V, V + NEW), 1, seed=5)[:, 0], torch.arange(V, V + NEW))
    torch.testing.assert_close(head.weight, other.weight, rtol=1e-5, atol=1e-6)
    assert found(head, range(V + NEW)) > 0.5
