"""The loops of public scripts in transformers' Trainer and with peft: all is counted, and no mistake is silent."""

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from put_in import WRONG, V, speaking

import firstsight
from firstsight import HebbianSoftmax, InputError
from firstsight.huggingface import FirstSight

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BERT = {**SIZE, "vocab_size": V, "max_position_embeddings": 8, "num_labels": V}
SEQ = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": V}
VIT = {**SIZE, "image_size": 4, "patch_size": 2, "num_channels": 1, "num_labels": V}
MASKED = torch.tensor([True, False, True, False, False])
KINDS = {
    # huggingface/transformers examples/pytorch/text-classification/run_glue.py
    "run_glue": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)),
    # huggingface/transformers examples/pytorch/token-classification/run_ner.py
    "run_ner": lambda: transformers.BertForTokenClassification(transformers.BertConfig(**BERT)),
    # huggingface/transformers examples/pytorch/language-modeling/run_clm.py
    "run_clm": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
    ),
    # huggingface/transformers examples/pytorch/language-modeling/run_mlm.py
    "run_mlm": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT)),
    # huggingface/transformers examples/pytorch/translation/run_translation.py
    "run_translation": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**SEQ, decoder_start_token_id=0, tie_word_embeddings=False)
    ),
    # huggingface/transformers examples/pytorch/image-classification/run_image_classification.py
    "run_image_classification": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
}


def made(name, n=48):
    """A model, its examples, and the counts after one epoch of them."""
    torch.manual_seed(0)
    model, words = KINDS[name](), torch.randint(V, (n, 5))
    if name == "run_image_classification":
        data = {"pixel_values": torch.randn(n, 1, 4, 4), "labels": words[:, 0]}
    else:
        labels = {
            "run_glue": words[:, 0],
            "run_ner": words.masked_fill(words == 3, -100),
            "run_mlm": words.where(MASKED, -100),
        }
        data = {"input_ids": words, "labels": labels.get(name, words)}
    seen = data["labels"][:, 1:] if name == "run_clm" else data["labels"]
    if name == "run_translation":
        data["decoder_input_ids"] = F.pad(words, (1, -1))
    examples = [{key: value[i] for key, value in data.items()} for i in range(n)]
    return model, examples, 1 + torch.bincount(seen[seen >= 0], minlength=V)


def fit(model, examples, folder, optimizer=None, kind=None, callbacks=(), **args):
    """A trainer, to be trained."""
    seq = isinstance(model, transformers.T5ForConditionalGeneration)
    told = transformers.Seq2SeqTrainingArguments if seq else transformers.TrainingArguments
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 4, **args}
    told = told(folder, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", **args)
    kind = kind or (transformers.Seq2SeqTrainer if seq else transformers.Trainer)
    return kind(
        model,
        told,
        train_dataset=examples,
        eval_dataset=examples[:8],
        optimizers=(optimizer, None),
        callbacks=[*callbacks],
    )


def adamw(model):
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-3)


# With an evaluation in between, accumulation, clipping and a schedule.
@pytest.mark.parametrize("how", ["attach", "callback"])
@pytest.mark.parametrize("name", KINDS)
def test_trainer(name, how, tmp_path):
    model, examples, expected = made(name)
    args = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "warmup_steps": 2}
    if name == "run_translation":
        args |= {"predict_with_generate": True, "generation_max_length": 4}
    optimizer = adamw(model) if how == "attach" else None
    if how == "attach":
        firstsight.attach(model, optimizer, counts="new")
    callbacks = [FirstSight(counts="new")] if how == "callback" else []
    with speaking():
        fit(model, examples, tmp_path, optimizer, callbacks=callbacks, **args).train()
    layer = model.get_output_embeddings() or getattr(model, "classifier", None)
    assert torch.equal(layer.firstsight_counts, expected)


# The Trainer's own optimizer, asked for before it trains; gradient checkpointing
def test_the_trainers_own_optimizer(tmp_path):
    model, examples, expected = made("run_clm")
    trainer = fit(model, examples, tmp_path, gradient_checkpointing=True)
    handle = firstsight.attach(model, trainer.create_optimizer(), counts="new")
    with speaking():
        trainer.train()
    assert torch.equal(handle.head.counts, expected)


@pytest.mark.parametrize("name", ["run_glue", "run_clm", "run_translation"])
@pytest.mark.parametrize("told", [True, False])
def test_label_smoothing_of_the_trainer(name, told, tmp_path):
    """It takes the labels out of what the model is called with."""
    model, examples, expected = made(name)
    optimizer = adamw(model)
    handle = firstsight.attach(model, optimizer, counts="new")

    class Telling(transformers.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            handle.labels(inputs["labels"])
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = fit(model, examples, tmp_path, optimizer, Telling if told else None, label_smoothing_factor=0.1)
    with speaking():
        if told:
            trainer.train()
            assert torch.equal(handle.head.counts, expected)
        else:
            with pytest.raises(InputError, match="label_smoothing_factor"):
                trainer.train()


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_that_the_trainer_was_not_given(name, tmp_path):
    model, examples, _ = made(name)
    optimizer = adamw(model)
    firstsight.attach(model, optimizer, counts="new")
    with speaking(), pytest.raises(UserWarning, match=WRONG["another optimizer"]):
        fit(model, examples, tmp_path).train()


def test_an_optimizer_that_nobody_kept(tmp_path):
    model, examples, _ = made("run_glue")
    firstsight.attach(model, adamw(model), counts="new")
    with speaking(), pytest.raises(UserWarning, match="attached to no optimizer"):
        fit(model, examples, tmp_path).train()


def test_labels_that_are_not_shifted(tmp_path):
    model, examples, _ = made("run_clm")
    optimizer = adamw(model)
    handle = firstsight.attach(model, optimizer, counts="new", shift=0)
    with speaking(), pytest.raises(InputError, match="want shift=1"):
        fit(model, examples, tmp_path, optimizer).train()
    assert handle.head.counts.tolist() == [1] * V


# The loss is the model's own, or the Trainer is given one; the layer does not know of it
@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_only_the_layer_was_swapped(attached, own, tmp_path):
    model, examples, _ = made("run_glue")
    model.classifier = HebbianSoftmax(16, V)
    optimizer = adamw(model)
    if attached:
        model.classifier.attach(optimizer)
    trainer = fit(model, examples, tmp_path, optimizer)
    if own:
        trainer.compute_loss_func = lambda out, y, num_items_in_batch: F.cross_entropy(out.logits, y)
    with speaking(), pytest.raises(UserWarning, match=WRONG["loss outside" if attached else "swapped alone"]):
        trainer.train()


def test_a_loss_of_the_trainers(tmp_path):
    model, examples, _ = made("run_glue")
    optimizer = adamw(model)
    firstsight.attach(model, optimizer, counts="new")
    trainer = fit(model, examples, tmp_path, optimizer)
    trainer.compute_loss_func = lambda out, y, num_items_in_batch: F.cross_entropy(out.logits, y)
    with pytest.raises(InputError, match="has no labels for it"):
        trainer.train()


# huggingface/transformers examples/pytorch/question-answering/run_qa.py, multiple-choice/run_swag.py, and
# text-classification/run_classification.py with several labels each or numbers to predict: not one class an example
@pytest.mark.parametrize("name", ["run_qa", "run_swag", "several labels", "numbers"])
def test_what_has_no_classes_is_refused(name, tmp_path):
    torch.manual_seed(0)
    words = torch.randint(V, (48, 5))
    if name == "run_qa":
        model = transformers.BertForQuestionAnswering(transformers.BertConfig(**{**BERT, "num_labels": 2}))
        labels = {"start_positions": words[:, 0] % 5, "end_positions": words[:, 1] % 5}
    elif name == "run_swag":
        model = transformers.BertForMultipleChoice(transformers.BertConfig(**BERT))
        words, labels = words.reshape(24, 2, 5), {"labels": words[:24, 0] % 2}
    else:
        config = transformers.BertConfig(**{**BERT, "num_labels": 1 if name == "numbers" else V})
        model = transformers.BertForSequenceClassification(config)
        labels = {"labels": torch.rand(48) if name == "numbers" else (torch.rand(48, V) < 0.5).float()}
    optimizer = adamw(model)
    examples = [{"input_ids": row, **{key: value[i] for key, value in labels.items()}} for i, row in enumerate(words)]

    def train():
        firstsight.attach(model, optimizer, counts="new")
        fit(model, examples, tmp_path, optimizer).train()

    with speaking(), pytest.raises(InputError):
        train()


# huggingface/peft examples/sequence_classification/LoRA.ipynb: the classifier is trained as a copy, in modules_to_save
@pytest.mark.parametrize("when", ["before", "after"])
def test_peft(when, tmp_path):
    model, examples, expected = made("run_glue")
    first = adamw(model)
    if when == "before":
        firstsight.attach(model, first, counts="new")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4))
    if when == "before":
        with speaking(), pytest.raises(InputError, match="was not called"):
            fit(model, examples, tmp_path, adamw(model)).train()
        return
    optimizer = adamw(model)
    handle = firstsight.attach(model, optimizer, counts="new")
    with speaking():
        fit(model, examples, tmp_path, optimizer).train()
    assert torch.equal(handle.head.counts, expected)


# huggingface/peft examples/sequence_classification/LoRA.ipynb, with an adapter on the layer itself
def test_an_adapter_on_the_layer_is_refused():
    model, _, _ = made("run_glue")
    lora = peft.LoraConfig(r=2, target_modules=["query", "classifier"])
    model = peft.get_peft_model(model, lora)
    with pytest.raises(InputError, match="has an adapter on it"):
        firstsight.attach(model, adamw(model), counts="new")
