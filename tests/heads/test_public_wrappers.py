"""The loops of public scripts in accelerate: every example is counted once, and no mistake is silent."""

import itertools

import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from accelerate.utils import find_executable_batch_size
from put_in import WRONG, D, Net, V, batches, speaking
from torch import nn
from torch.utils.data import DataLoader

import firstsight
from firstsight import HebbianSoftmax, InputError

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": V}


def classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZE, max_position_embeddings=8, num_labels=V)
    words = torch.randint(V, (49, 5))
    model = transformers.BertForSequenceClassification(config)
    return model, [{"input_ids": row, "labels": row[0]} for row in words], counts(words[:, 0])


def causal():
    torch.manual_seed(0)
    words = torch.randint(V, (49, 5))
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE, pad_token_id=None))
    return model, [{"input_ids": row, "labels": row} for row in words], counts(words[:, 1:])


def counts(labels):
    return 1 + torch.bincount(labels.flatten(), minlength=V)


def prepared(model, examples, when, accumulate=1, **options):
    """As scripts do; firstsight comes before ``prepare``, after it, or too late to an optimizer of its own."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **options)
    optimizer = other = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    if when == "another optimizer":
        other = torch.optim.AdamW(model.parameters(), lr=1e-3)
    handle = firstsight.attach(model, other, counts="new") if when != "after" else None
    told = DataLoader(examples, batch_size=4)
    model, optimizer, told, scheduler = accelerator.prepare(model, optimizer, told, scheduler)
    handle = firstsight.attach(model, optimizer, counts="new") if when == "after" else handle
    return accelerator, model, optimizer, told, scheduler, handle, other


# huggingface/transformers examples/pytorch/text-classification/run_glue_no_trainer.py: steps counted by hand
def run_glue_no_trainer(accelerator, model, optimizer, told, scheduler):
    model.train()
    for step, batch in enumerate(told):
        accelerator.backward(model(**batch).loss / 2)
        if step % 2 == 0 or step == len(told) - 1:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    model.eval()
    for batch in told:
        model(**batch)


# huggingface/transformers examples/pytorch/language-modeling/run_clm_no_trainer.py, huggingface/accelerate
# examples/nlp_example.py and by_feature/gradient_accumulation.py: accelerator.accumulate
def accumulate(accelerator, model, optimizer, told, scheduler):
    for batch in told:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


# huggingface/accelerate examples/by_feature/local_sgd.py
def local_sgd(accelerator, model, optimizer, told, scheduler):
    with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=8, enabled=True) as local:
        for batch in told:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                local.step()


# huggingface/accelerate examples/by_feature/gradient_accumulation_for_autoregressive_models.py: one sum for all tokens
def autoregressive(accelerator, model, optimizer, told, scheduler):
    left = iter(told)
    while group := list(itertools.islice(left, 2)):
        items = sum((batch["labels"] != -100).sum() for batch in group)
        for batch in group:
            loss = model(**batch, num_items_in_batch=items, use_cache=False).loss
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


PREPARED = [
    (run_glue_no_trainer, classifier, 1),
    (accumulate, classifier, 1),
    (accumulate, causal, 2),
    (local_sgd, classifier, 1),
    (autoregressive, causal, 2),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("loop", "made", "steps"), PREPARED)
def test_accelerate(loop, made, steps, when):
    model, examples, expected = made()
    *objects, handle, _ = prepared(model, examples, when, steps)
    with speaking():
        loop(*objects)
    assert torch.equal(handle.head.counts, expected)


@pytest.mark.parametrize(("loop", "made", "steps"), PREPARED)
def test_accelerate_steps_another_optimizer(loop, made, steps):
    model, examples, _ = made()
    *objects, _, _kept = prepared(
        model, examples * steps * (1 + (loop is run_glue_no_trainer)), "another optimizer", steps
    )
    with speaking(), pytest.raises(UserWarning, match=WRONG["another optimizer"]):
        loop(*objects)


# huggingface/accelerate examples/by_feature/automatic_gradient_accumulation.py: begun anew when memory ran out
def test_batches_that_did_not_fit():
    handles, (_, examples, expected) = [], classifier()

    @find_executable_batch_size(starting_batch_size=8)
    def train(batch_size):
        model = classifier()[0]
        *objects, handle, _ = prepared(model, examples, "before", 8 // batch_size)
        handles.append(handle)
        accumulate(*objects)
        if batch_size == 8:
            raise RuntimeError("CUDA out of memory.")

    with speaking():
        train()
    assert len(handles) == 2
    assert torch.equal(handles[-1].head.counts, expected)


# huggingface/accelerate examples/cv_example.py: a frozen body, its loss outside; told of the labels, or not
@pytest.mark.parametrize("told", [True, False])
def test_cv_example(told):
    accelerator, net = Accelerator(cpu=True), Net(nn.Linear(D, V))
    net.body.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, epochs=1, steps_per_epoch=12)
    handle = firstsight.attach(net.out, optimizer, counts="new")
    net, optimizer, scheduler = accelerator.prepare(net, optimizer, scheduler)
    seen = []

    def train():
        for x, y in batches():
            if told:
                handle.labels(y)
            accelerator.backward(F.cross_entropy(net(x), y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            seen.append(y)

    with speaking():
        if told:
            train()
            assert torch.equal(handle.head.counts, counts(torch.cat(seen)))
        else:
            with pytest.raises(InputError, match=WRONG["no labels"]):
                train()


# huggingface/accelerate examples/by_feature/schedule_free.py: weights that are an average
def test_schedule_free():
    class AdamWScheduleFree(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
                state = self.state[p]
                z = state.setdefault("z", p.clone()).sub_(p.grad, alpha=0.01)
                state["k"] = state.get("k", 0) + 1
                p.lerp_(z, 1 / state["k"])

    accelerator, net = Accelerator(cpu=True), Net(HebbianSoftmax(D, V))
    optimizer = AdamWScheduleFree(net.parameters(), 0.01)
    net.out.attach(optimizer)
    net, optimizer = accelerator.prepare(net, optimizer)
    x, y = next(batches())
    accelerator.backward(net.out.loss(net.body(x), y))
    with pytest.warns(UserWarning, match="AdamWScheduleFree, keeps weights of its own"):
        optimizer.step()
