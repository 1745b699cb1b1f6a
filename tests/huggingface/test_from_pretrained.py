"""A model of one's own with the head in it, saved and loaded as transformers does: past ``load_state_dict``."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from firstsight import HebbianSoftmax, InputError

RULES = ["sight", "centered", "paper", "shrinkage"]


class Config(transformers.PretrainedConfig):
    model_type = "toy"

    def __init__(self, width=6, classes=10, head=None, **options):
        super().__init__(**options)
        self.width, self.classes, self.head = width, classes, head


class Model(transformers.PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.body = nn.Linear(4, config.width)
        sizes = config.width, config.classes
        self.out = nn.Linear(*sizes) if config.head is None else HebbianSoftmax(*sizes, rule=config.head)
        self.post_init()

    def forward(self, x, labels=None):
        h = self.body(x)
        return F.cross_entropy(self.out(h), labels) if self.config.head is None else self.out.loss(h, labels)


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(12, 4, generator=g), torch.randint(10, (12,), generator=g)


def train(model, seeds):
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)  # from_pretrained leaves it in evaluation mode
    if isinstance(model.out, HebbianSoftmax):
        model.out.attach(optimizer)
    for seed in seeds:
        optimizer.zero_grad()
        model(*batch(seed)).backward()
        optimizer.step()
    return model


def saved(model, folder, **changes):
    """Saved, and its configuration changed by hand."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_counts_are_kept(rule, tmp_path):
    straight = train(Model(Config(head=rule)), range(3))
    loaded = Model.from_pretrained(saved(straight, tmp_path))
    again = copy.deepcopy(loaded)  # a copy is no less filled, though the loader's notes are not on its parameters
    copy.deepcopy(again).to(torch.float64).out.write(torch.randn(2, 6, dtype=torch.float64), torch.tensor([1, 2]))
    ours, theirs = straight.state_dict(), again.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    train(straight, range(3, 5)), train(again, range(3, 5))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in straight.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_a_plain_model_has_none_and_has_to_be_told(rule, tmp_path):
    plain = train(Model(Config()), range(3))
    for _ in range(3):  # heads that are gone, whose memory may be given out again
        train(Model(Config(head=rule)), range(2))
    model = Model.from_pretrained(saved(plain, tmp_path, head=rule))
    assert torch.equal(model.out.weight, plain.out.weight)
    assert model.eval()(*batch(0)).isfinite(), "to be read it needs no counts"
    for use in (lambda: train(model, [0]), lambda: model.out.write(*batch(0)), model.state_dict):
        with pytest.raises(InputError, match=r'counts, .*was never filled.*head.set_counts\("trained"\)'):
            use()
    model.out.set_counts("trained")
    train(model, range(2))
    assert torch.isfinite(model.out.weight).all()
    model.to(torch.float64).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("rule", RULES)
def test_another_number_of_classes_has_to_be_started(rule, tmp_path):
    folder = saved(train(Model(Config(head=rule)), range(3)), tmp_path)
    model = Model.from_pretrained(folder, classes=12, ignore_mismatched_sizes=True)
    rows = model.out.weight.detach().clone()
    for use in (lambda: train(model, [0]), model.state_dict, lambda: copy.deepcopy(model).state_dict()):
        with pytest.raises(InputError, match=r"bias, counts, .*weight was never filled.*head.reset_parameters\(\)"):
            use()
    torch.testing.assert_close(
        model.out.weight.detach(), rows, rtol=0, atol=0, equal_nan=True
    )  # asking changes nothing
    model.out.reset_parameters()
    train(model, [0])
    assert model.out.counts.sum() == 12 + 12
    assert model.out.weight.abs().max() < 3, "rows of a new layer, and not of raw memory"


def test_another_rule_is_refused(tmp_path):
    folder = saved(train(Model(Config(head="direction")), range(3)), tmp_path, head="paper")
    model = Model.from_pretrained(folder)
    with pytest.raises(
        InputError, match=r"made with rule='direction'.*from_linear\(old.to_linear\(\), old.counts - 1\)"
    ):
        train(model, [0])
