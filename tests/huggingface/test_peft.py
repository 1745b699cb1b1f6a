"""Adapters of peft: the trained copy of the output layer is written, and its counts survive a reload."""

import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import LABELS, counted, model_of, rows_of

import firstsight
from firstsight import InputError

NAME = "bert sequence"
LORA = {"r": 2, "target_modules": ["query", "value"], "lora_dropout": 0.0}


def adapted(name=NAME, **options):
    return peft.get_peft_model(model_of(name), peft.LoraConfig(**{**LORA, **options}))


def train(model, handle, optimizer, seeds=range(3)):
    for seed in seeds:
        rows = rows_of(NAME, seed=seed)
        batch = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def attached(model, **options):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    return firstsight.attach(model, optimizer, **{"counts": "new", **options}), optimizer


@pytest.mark.parametrize("options", [{"modules_to_save": ["classifier"]}, {"task_type": "SEQ_CLS"}])
def test_the_layer_that_is_trained_beside_the_adapter(options, tmp_path):
    model = adapted(**options)
    handle, optimizer = attached(model)
    train(model, handle, optimizer)
    rows = [row for seed in range(3) for row in rows_of(NAME, seed=seed)]
    assert torch.equal(handle.head.counts, counted(NAME, rows, LABELS))
    assert handle.head.weight.requires_grad

    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(model_of(NAME), tmp_path, is_trainable=True)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert any(name.endswith("firstsight_counts") for name in state)
    other, by = attached(again, counts=state)
    assert torch.equal(other.head.counts, handle.head.counts)
    for one, its, opt in ((model, handle, optimizer), (again, other, by)):
        train(one, its, opt, seeds=range(3, 5))
    assert torch.equal(other.head.weight, handle.head.weight)
    assert torch.equal(other.head.counts, handle.head.counts)


def test_an_adapter_on_the_output_layer_is_refused_with_the_mend():
    with pytest.raises(InputError, match=r"has an adapter on it \(peft\..*modules_to_save"):
        attached(adapted(target_modules=["query", "classifier"]))
    with pytest.raises(InputError, match="modules_to_save"):
        attached(adapted("llama causal", target_modules=["q_proj", "lm_head"]))


def test_an_output_layer_that_is_frozen():
    with pytest.raises(InputError, match="does not require a gradient"):
        attached(adapted())
