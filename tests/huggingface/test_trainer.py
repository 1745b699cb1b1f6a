"""transformers' Trainer as people run it: with the callback every example of every step is counted, once."""

import warnings

import pytest
import torch
import transformers
from tiny_models import MODELS, VOCABULARY, counted, model_of, rows_of
from transformers import Trainer, TrainingArguments

import firstsight
from firstsight import InputError
from firstsight.huggingface import FirstSight

QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}


def trainer_of(name, folder, kind=Trainer, rows=None, callback=None, model=None, **settings):
    callback = FirstSight(counts="new") if callback is None else callback
    told = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-2, **QUIET, **settings}
    args = TrainingArguments(str(folder), **told)
    rows = rows_of(name, 16) if rows is None else rows
    model = model_of(name) if model is None else model
    return kind(model, args, train_dataset=rows, eval_dataset=rows[:4], callbacks=[callback]), callback


def seen(name, epochs=2):
    V = model_of(name).config.vocab_size if MODELS[name][1] in ("causal", "masked", "text") else 7
    return counted(name, rows_of(name, 16) * epochs, V)


@pytest.mark.parametrize("name", MODELS)
def test_one_line(name, tmp_path):
    trainer, callback = trainer_of(name, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="firstsight")
        trainer.train()
    assert torch.equal(callback.handle.head.counts, seen(name))


SETTINGS = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipped": {"max_grad_norm": 0.1},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "validation in between": {"eval_strategy": "steps", "eval_steps": 1},
    "another optimizer": {"optim": "adafactor"},
    "warmup": {"warmup_steps": 3},
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("name", ["bert sequence", "llama causal"])
def test_settings_that_people_use(name, how, tmp_path):
    trainer, callback = trainer_of(name, tmp_path, **SETTINGS[how])
    trainer.train()
    assert torch.equal(callback.handle.head.counts, seen(name))


@pytest.mark.timeout(300)
def test_compiled(tmp_path):
    trainer, callback = trainer_of("bert sequence", tmp_path, torch_compile=True, torch_compile_backend="eager")
    trainer.train()
    assert torch.equal(callback.handle.head.counts, seen("bert sequence"))


class Smoothing(Trainer):
    def compute_loss(self, model, inputs, **options):
        callback.labels(inputs["labels"])
        return super().compute_loss(model, inputs, **options)


@pytest.mark.parametrize("name", ["bert sequence", "gpt2 causal", "bert tokens"])
def test_label_smoothing(name, tmp_path):
    global callback
    trainer, _ = trainer_of(name, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(InputError, match="Trainer takes them away with label_smoothing_factor"):
        trainer.train()
    trainer, callback = trainer_of(name, tmp_path, kind=Smoothing, label_smoothing_factor=0.1)
    trainer.train()
    assert torch.equal(callback.handle.head.counts, seen(name))


def test_the_optimizer_that_one_hands_over(tmp_path):
    model = model_of("bert sequence")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    handle = firstsight.attach(model, optimizer, counts="new")
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, num_train_epochs=2, **QUIET)
    Trainer(model, args, train_dataset=rows_of("bert sequence", 16), optimizers=(optimizer, None)).train()
    assert torch.equal(handle.head.counts, seen("bert sequence"))


def test_model_init(tmp_path):
    callback = FirstSight(counts="new")
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, num_train_epochs=2, **QUIET)
    rows = rows_of("bert sequence", 16)
    trainer = Trainer(args=args, train_dataset=rows, callbacks=[callback], model_init=lambda: model_of("bert sequence"))
    for _ in range(2):
        trainer.train()
        assert torch.equal(callback.handle.head.counts, seen("bert sequence"))


def state_of(trainer):
    return trainer.model.state_dict()


@pytest.mark.parametrize("name", ["bert sequence", "gpt2 causal", "llama sequence"])
def test_a_resumed_run_equals_the_straight_one(name, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    straight, _ = trainer_of(name, tmp_path / "straight", **saving)
    straight.train()
    resumed, callback = trainer_of(name, tmp_path / "straight", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight/checkpoint-3"))
    ours, theirs = state_of(straight), state_of(resumed)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert torch.equal(callback.handle.head.counts, seen(name))


def test_the_best_model_at_the_end(tmp_path):
    trainer, callback = trainer_of(
        "bert sequence",
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        learning_rate=1.0,  # the first step is the best
    )
    trainer.train()
    best = int(trainer.state.best_model_checkpoint.rsplit("-", 1)[1])
    assert best < 8
    assert callback.handle.head.counts.sum() == 7 + 4 * best


def test_what_save_pretrained_saves_goes_on(tmp_path):
    """from_pretrained makes a plain model, and says that it leaves the counts out; the file has them."""
    from safetensors.torch import load_file

    trainer, callback = trainer_of("gpt2 causal", tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(InputError, match="counts is None"):
        firstsight.attach(model, optimizer)
    handle = firstsight.attach(model, optimizer, counts=load_file(tmp_path / "saved/model.safetensors"))
    for name, value in callback.handle.head._keeper.named_buffers():
        assert torch.equal(value, handle.head._keeper.get_buffer(name)), name
    assert handle.head.rule == "sight"
    with pytest.raises(InputError, match="of 0 layers; expected one"):
        firstsight.attach(model_of("gpt2 causal"), optimizer, counts=model_of("gpt2 causal").state_dict())


def test_a_callback_without_a_trainer():
    with pytest.raises(InputError, match=r"Trainer\(..., callbacks=\[callback\]\)"):
        FirstSight(counts="new").labels(torch.zeros(1))


def test_the_number_of_words():
    assert model_of("t5").config.vocab_size == VOCABULARY
