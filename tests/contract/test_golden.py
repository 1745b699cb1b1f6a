"""State that earlier versions have written is loaded by today's code, and means what it meant."""

import json

import pytest
import torch
from contract_heads import HEADS, D, V
from make_golden import GOLDEN, values
from torch import nn

from firstsight import HebbianSoftmax, Softmax

FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_state(path):
    told = json.loads(path.read_text(encoding="utf-8"))
    # The first ones are of the time when the default was the paper's rule.
    settings = told.get("settings", {"rule": "paper"} if told["head"] == "HebbianSoftmax" else {})
    sizes = told["in_features"], told["num_classes"]
    head = HEADS[told["head"]](*sizes, bias=told["bias"], dtype=torch.float64, **settings)
    head.load_state_dict(torch.load(path.with_suffix(".pt"), weights_only=True), strict=True)
    found = values(head)
    assert found.keys() == told["values"].keys()
    for name, value in told["values"].items():
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(value), rtol=1e-6, atol=1e-7)


def test_every_head_has_golden_files():
    assert {path.stem.split("-")[0] for path in FILES} == set(HEADS)
    assert {path.stem for path in FILES} == {path.stem for path in GOLDEN.glob("*.pt")}


@pytest.mark.parametrize("source", [nn.Linear(D, V), Softmax(D, V)], ids=["Linear", "Softmax"])
def test_state_without_counts(source):
    model = nn.ModuleDict({"head": HebbianSoftmax(D, V, T=7, rule="paper")})
    state = {f"head.{name}": value for name, value in source.state_dict().items()}
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r'has no "head.counts"(.|\n)*state\["head.counts"\] = .*\(\(9,\), 7\)'):
            model.load_state_dict(state, strict=strict)
    state["head.counts"] = torch.full((9,), 7)  # as the message says
    model.load_state_dict(state)
    assert (model["head"].counts == 7).all()
    assert "head.counts" in model.load_state_dict({}, strict=False).missing_keys, "no head at all is another matter"


def test_state_of_a_later_layout():
    state = HebbianSoftmax(D, V).state_dict()
    state._metadata[""]["version"] = 99
    with pytest.raises(RuntimeError, match="of layout 99, of a newer firstsight; this one reads up to 2"):
        HebbianSoftmax(D, V).load_state_dict(state)
