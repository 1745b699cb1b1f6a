"""A trained language model under transformers' Trainer meets a new word: with the write it expects it after one sight.

A tiny random model (no download) learns a language of 40 words: a GPT-2, whose output layer is tied to the embedding
and has no bias, and one like Llama, whose output layer is its own. Then a new word turns up, always after word 7, once
a step among seven sentences of the old language. Printed is the NLL of the new word where it belongs after k sights,
and that of the old words, with and without the write.
"""

import copy
import tempfile

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import firstsight  # firstsight

WORDS, NEW, BEFORE, LENGTH, SIGHTS = 40, 40, 7, 12, (1, 2, 4, 8)
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_DROPOUT = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}


def gpt2(vocab_size):
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=LENGTH, **SIZE, **NO_DROPOUT))


def llama(vocab_size):
    untied = {"intermediate_size": 64, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SIZE, **untied))


def sentence(followers, new=False):
    words = [int(torch.randint(WORDS, ()))]
    for _ in range(LENGTH - 1):
        words.append(int(followers[words[-1], torch.randint(4, ())]))
    if new:
        at = int(torch.randint(1, LENGTH - 2, ()))
        words[at : at + 2] = [BEFORE, NEW]
    return {"input_ids": words, "labels": words}


def train(model, sentences, lr, callbacks=(), seen=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    if seen:
        handle = firstsight.attach(model, optimizer, counts="trained", new=[NEW], shift=1)  # firstsight
        with torch.no_grad(), handle.head.looking():  # firstsight
            for batch in torch.tensor([s["input_ids"] for s in seen]).split(64):  # firstsight
                model(input_ids=batch, labels=batch)  # firstsight
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "train_sampling_strategy": "sequential"}
        arguments = TrainingArguments(folder, num_train_epochs=1, use_cpu=True, per_device_train_batch_size=8, **quiet)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1)
        Trainer(model, arguments, None, sentences, optimizers=(optimizer, schedule), callbacks=[*callbacks]).train()


class Measure(TrainerCallback):
    """The mean NLL of the new word, and of the old ones, after k steps."""

    def __init__(self, sentences):
        self.tokens, self.nll = torch.tensor([s["input_ids"] for s in sentences]), {}

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step in SIGHTS:
            with torch.no_grad():  # in training mode: these models have no dropout
                nll = -model(self.tokens).logits[:, :-1].log_softmax(-1).gather(2, self.tokens[:, 1:, None])[..., 0]
            new = self.tokens[:, 1:] == NEW
            self.nll[state.global_step] = float(nll[new].mean()), float(nll[~new].mean())


def meet(kind, seed, resized=True):
    """NLL of the new word and of the old ones after k sights, {k: (new, old)}, without the write and with it.

    The new word's token is added after training, or was there from the start and never seen.
    """
    torch.manual_seed(seed)
    followers = torch.randint(WORDS, (WORDS, 4))
    model, seen = kind(WORDS if resized else WORDS + 1), [sentence(followers) for _ in range(8 * 150)]
    train(model, seen, 1e-2)
    model.resize_token_embeddings(WORDS + 1, mean_resizing=False)
    late = [sentence(followers, new=i % 8 == 0) for i in range(8 * max(SIGHTS))]
    without = Measure([sentence(followers, new=True) for _ in range(100)])
    with_write = copy.deepcopy(without)
    train(copy.deepcopy(model), late, 3e-3, [without])
    train(model, late, 3e-3, [with_write], seen)
    return without.nll, with_write.nll


def main():
    for kind in (gpt2, llama):
        without, with_write = meet(kind, seed=0)
        for k, (new, old) in with_write.items():
            new0, old0 = without[k]
            print(
                f"{kind.__name__}, {k} sights: new word {new0:.2f} -> {new:.2f}, old words {old0:.2f} -> {old:.2f} nats"
            )
        (new0, old0), (new, old) = without[1], with_write[1]
        assert new < new0 - 2, "the new word is known"
        assert old < old0 + 0.1, "and the old ones too"


if __name__ == "__main__":
    main()
