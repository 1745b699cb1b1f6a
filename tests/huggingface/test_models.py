"""firstsight.attach finds the output layer and how the labels lie, in every kind of model that transformers has."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from tiny_models import LABELS, MODELS, VOCABULARY, counted, model_of, rows_of

import firstsight
from firstsight import InputError


def batch_of(name, n=8, seed=1):
    rows = rows_of(name, n, seed)
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_every_example_is_counted_under_its_label(name):
    model = model_of(name)
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            model(**batch_of(name, seed=seed)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = [row for seed in range(3) for row in rows_of(name, seed=seed)]
    assert torch.equal(handle.head.counts, counted(name, rows, handle.head.num_classes))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_made_the_logits(name):
    """The paper's rule writes a class that is met for the first time outright: its row is its activation."""
    model = model_of(name).train()
    inputs = batch_of(name, n=1 if MODELS[name][1] == "sequence" else 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = firstsight.attach(model, optimizer, counts="new", rule="paper")
    before = copy.deepcopy(model)
    logits, layer = before(**inputs).logits, before.get_submodule(name_of(model, handle))
    model(**inputs).loss.backward()
    optimizer.step()
    labels = inputs["labels"]
    if MODELS[name][2]:
        logits, labels = logits[:, :-1], labels[:, 1:]
    kept, bias = labels != -100, 0 if layer.bias is None else layer.bias
    for label in labels[kept].unique():
        theirs = logits[labels == label].mean(0) - bias
        ours = before_row(before, layer) @ handle.head.weight[label]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def name_of(model, handle):
    return next(name for name, module in model.named_modules() if module is handle.head._keeper)


def before_row(model, layer):
    return layer.weight


def test_a_wrong_shift_is_refused_before_anything_is_written():
    for name, wrong in (("gpt2 causal", 0), ("bert tokens", 1), ("t5", 1)):
        model = model_of(name)
        optimizer = sgd(model)
        handle = firstsight.attach(model, optimizer, counts="new", shift=wrong)
        with pytest.raises(InputError, match="learns other labels than those that the head was given"):
            model(**batch_of(name)).loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        assert handle.head.counts.sum() == handle.head.num_classes


def test_the_layer_alone_of_a_model_that_shifts():
    model = model_of("llama causal")
    optimizer = sgd(model)
    handle = firstsight.attach(model.lm_head, optimizer, counts="new")
    inputs = batch_of("llama causal")
    handle.labels(inputs["labels"])
    with pytest.raises(InputError, match="learns other labels"):
        model(**inputs).loss.backward()


def test_two_layers_of_that_size_are_named():
    model = model_of("bert sequence")
    model.second = torch.nn.Linear(16, LABELS)
    with pytest.raises(InputError, match="it could be classifier or second"):
        firstsight.attach(model, sgd(model), counts="new")


def test_a_classifier_of_hidden_size_classes():
    """Layers of the body have as many outputs, and are not the output layer."""
    import transformers

    config = copy.deepcopy(model_of("bert sequence").config)
    config.num_labels = config.hidden_size
    model = transformers.BertForSequenceClassification(config)
    optimizer = sgd(model)
    assert firstsight.attach(model, optimizer, counts="new").head.weight is model.classifier.weight


def test_generate_in_between():
    model = model_of("gpt2 causal")
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    inputs = batch_of("gpt2 causal")
    for _ in range(2):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.generate(inputs["input_ids"][:, :3], max_new_tokens=4, do_sample=False)
    assert torch.equal(handle.head.counts, counted("gpt2 causal", rows_of("gpt2 causal") * 2, VOCABULARY))


@pytest.mark.parametrize("name", ["gpt2 causal", "llama causal", "bert masked"])
def test_embeddings_that_are_resized(name):
    model = model_of(name)
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    inputs = batch_of(name)
    model(**inputs).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    with pytest.raises(InputError, match=r"attach again|not the parameter that was attached"):
        model(**inputs).loss.backward()
    handle.remove()
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="trained", new=range(VOCABULARY, VOCABULARY + 3))
    model(**inputs).loss.backward()
    optimizer.step()
    assert handle.head.num_classes == VOCABULARY + 3


def test_growing_by_the_head_keeps_a_tied_embedding_in_step():
    model = model_of("gpt2 causal")
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    handle.head.add_classes(2)
    embedding = model.get_input_embeddings()
    assert embedding.num_embeddings == len(embedding.weight) == model.lm_head.out_features == VOCABULARY + 2
    handle.head.remove_classes([0])
    assert embedding.num_embeddings == VOCABULARY + 1


def test_logits_that_a_loss_of_ones_own_takes():
    model = model_of("bert sequence")
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    inputs = batch_of("bert sequence")
    labels = inputs.pop("labels")
    handle.labels(labels)
    F.cross_entropy(model(**inputs).logits, labels, label_smoothing=0.1).backward()
    optimizer.step()
    assert handle.head.counts.sum() == LABELS + 8


@pytest.mark.parametrize("name", ["bert sequence", "llama sequence", "bert tokens", "gpt2 causal"])
def test_a_model_in_service_is_written_through_the_handle(name):
    """What is written is what goes into the layer in evaluation mode: the paper's rule shows it."""
    model = model_of(name)
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new", rule="paper")
    inputs = batch_of(name, n=2)
    labels = inputs.pop("labels")
    model.train()
    model.config.problem_type = None
    handle.write(labels, **inputs)
    assert model.training
    assert not handle.head._pending
    rows = rows_of(name, n=2)
    assert torch.equal(handle.head.counts, counted(name, rows, handle.head.num_classes))
    hidden = []
    layer = handle.head._keeper
    hook = layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    with torch.no_grad():
        model.eval()(**inputs)
    hook.remove()
    if name == "bert sequence" and labels[0] != labels[1]:
        torch.testing.assert_close(handle.head.weight[labels], hidden[0])


def test_a_classifier_in_service_meets_a_new_class():
    model = model_of("bert sequence")
    optimizer = sgd(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    inputs = batch_of("bert sequence")
    model(**inputs).loss.backward()
    optimizer.step()
    handle.head.add_classes(1)
    assert model.num_labels == model.config.num_labels == model.classifier.out_features == LABELS + 1
    labels = torch.full((8,), LABELS)
    handle.write(labels, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert model(input_ids=inputs["input_ids"], labels=labels).loss.isfinite()
    assert handle.head.counts[LABELS] == 9


def test_an_attached_layer_is_quantised():
    from torch.ao.quantization import quantize_dynamic

    model = model_of("bert sequence").eval()
    optimizer = sgd(model)
    firstsight.attach(model, optimizer, counts="new")
    inputs = batch_of("bert sequence")
    inputs.pop("labels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = quantize_dynamic(model, {torch.nn.Linear})
        found = small(**inputs).logits
    assert (found - model(**inputs).logits).abs().max() < 0.05
