"""The settings of the write and of the loss: every rule, T and gamma, logit adjustment with weights and without."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clusters_of_names import NAMES, NEW, OLD

from firstsight import HebbianSoftmax, InputError
from firstsight.estimator import FirstSightClassifier, stored
from firstsight.estimator.rows import seeded
from firstsight.estimator.weights import loss_of
from firstsight.fitting import fit_head
from firstsight.heads.rules import RULES
from firstsight.scaling import Scaling

RARE = np.repeat(np.arange(0, 20, 2), np.arange(2, 22, 2))  # two examples of the first class, twenty of the last


def small(**options):
    return FirstSightClassifier(**({"random_state": 0, "least_steps": 60} | options))


@pytest.mark.parametrize("rule", RULES)
def test_with_every_rule_what_comes_later_is_written_and_kept(clusters, tmp_path, rule):
    found = small(rule=rule, T=10**6, gamma=0.05).fit(*clusters(6, OLD))
    head = found._rows.head
    assert (head.rule, head.T, head.gamma) == (rule, 10**6, 0.05)
    before = head.weight[:10].clone()
    found.partial_fit(*clusters(1, NEW)).partial_fit(*clusters(1, [0, 1]), classes=["declared"])
    assert found.classes_.tolist() == [*NAMES, "declared"]
    moved = (found._rows.head.weight[:10] != before).any(1)
    assert moved.tolist() == [True] + [False] * 9
    found.forget(NAMES[3]).save(tmp_path / "a")
    again, X = FirstSightClassifier.load(tmp_path / "a"), clusters(2)[0]
    assert again.get_params() == found.get_params()
    assert np.isfinite(found.decision_function(X)[:, :-1]).all()
    for one in (found, again):
        one.partial_fit(X[:2], ["later", "later still"])
    assert (again.predict_proba(X) == found.predict_proba(X)).all()
    found.forget(["later", "later still"]).set_params(warm_start=True, least_steps=5).fit(*clusters(2))
    with pytest.raises(InputError, match=r"the layer that is there was trained with"):
        found.set_params(rule="paper" if rule != "paper" else "sight").fit(*clusters(2))


def test_the_papers_rule_writes_the_first_example_outright_and_other_settings_are_its_own(clusters):
    found = small(rule="paper").fit(*clusters(3, OLD))
    assert (found._rows.head.T, found._rows.head.gamma) == (500, 0.01)
    X, _ = clusters(1, [1])
    found.partial_fit(X, [NAMES[1]])
    assert torch.equal(found._rows.head.weight[10].detach(), found._scaling.scaled(X)[0])


def test_settings_of_the_write_that_change_before_another_fit_take_effect_then_and_are_kept_as_they_act(
    trained, clusters, tmp_path
):
    trained.set_params(T=7, gamma=0.5, price=3.0)
    trained.save(tmp_path / "a")  # a layer of 100, 0.02 and 1.0 still
    again = FirstSightClassifier.load(tmp_path / "a")
    for one, of_layer in ((trained, (100, 0.02, 1.0)), (again, (100, 0.02, 1.0))):
        assert (one._rows.head.T, one._rows.head.gamma, one._rows.head.price) == of_layer
        assert (one.T, one.gamma, one.price) == (7, 0.5, 3.0)
        one.set_params(warm_start=True, least_steps=3).fit(*clusters(2))
        assert (one._rows.head.T, one._rows.head.gamma, one._rows.head.price) == (7, 0.5, 3.0)


def test_a_file_of_the_first_layout_has_the_settings_that_were_then(trained, clusters, tmp_path, monkeypatch):
    trained.save(tmp_path / "now")
    whole, since = stored._write, ("rule", "T", "gamma", "logit_adjustment")

    def first_layout(path, tensors, head):
        told = json.loads(tensors["json"].numpy().tobytes())
        del told["layer"]
        told["settings"] = {name: value for name, value in told["settings"].items() if name not in since}
        tensors["json"] = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        whole(path, tensors, head | {"version": "1", "sha256": stored._checksum(tensors)})

    monkeypatch.setattr(stored, "_write", first_layout)
    trained.save(tmp_path / "then")
    now, then = (FirstSightClassifier.load(tmp_path / name) for name in ("now", "then"))
    assert then.get_params() == now.get_params()
    X, y = clusters(1, NEW)
    assert (now.partial_fit(X, y).predict_proba(X) == then.partial_fit(X, y).predict_proba(X)).all()


def test_adjusted_by_one_the_loss_is_the_layers_own_of_counts(clusters):
    """As the trial trains its "-adjusted" methods: the same numbers to the bit."""
    X, _ = clusters(1, RARE)
    y = NAMES[RARE]
    found = small(logit_adjustment=1.0, batch_size=32).fit(X, y)
    h, target = Scaling.of(X).scaled(X), torch.from_numpy(RARE // 2)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    with seeded(seed, torch.device("cpu")):
        head, counts = HebbianSoftmax(24, 10), torch.bincount(target)
        settings = {"rate": 24**-0.5, "epochs": 12, "batch_size": 32, "least_steps": 60, "seed": seed}
        fit_head(head, h, target, **settings, loss=lambda h, y, _: head.loss(h, y, logit_adjustment=counts))
    assert torch.equal(found._rows.head.weight, head.weight)
    assert torch.equal(found._rows.head.bias, head.bias)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("weighs", [False, True])
def test_the_loss_is_the_plain_one_of_adjusted_logits(tau, weighs):
    g = torch.Generator().manual_seed(1)
    head, h = HebbianSoftmax(5, 4).eval(), torch.randn(9, 5, generator=g)
    y = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 3])  # and none of class 2
    weight = np.random.default_rng(0).random(9) if weighs else None
    logits = head(h) + tau * torch.tensor([6.0, 4.0, 1.0, 2.0]).log()
    each = F.cross_entropy(logits, y, reduction="none")
    at = torch.tensor([8, 0, 5])
    scale = 1.0 if weight is None else torch.from_numpy(weight / weight.mean()).float()[at]
    loss = loss_of(head, y, weight, tau)
    ours = head.loss(h[at], y[at]) if loss is None else loss(h[at], y[at], at)
    assert (loss is None) == (tau == 0 and not weighs)
    torch.testing.assert_close(ours, (each[at] * scale).mean())


def test_adjustment_finds_rare_classes_more_often_and_more_of_it_more():
    g = np.random.default_rng(0)
    y = np.r_[np.zeros(400, int), np.ones(12, int)]
    X = g.normal(size=(412, 6)) + np.outer(y, [1.2, 0, 0, 0, 0, 0])
    asked = np.random.default_rng(1).normal(size=(500, 6)) + [1.2, 0, 0, 0, 0, 0]
    recalls = [small(logit_adjustment=tau).fit(X, y).predict(asked).mean() for tau in (0, 0.5, 1)]
    assert recalls[0] + 0.1 < recalls[1] < recalls[2] - 0.1
    weighted = small(logit_adjustment=0.5, class_weight="balanced").fit(X, y).predict(asked).mean()
    assert weighted > recalls[1]
