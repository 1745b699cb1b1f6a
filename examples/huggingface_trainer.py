"""A trained language model under transformers' Trainer meets a new word: with the write it expects it after one sight.

A tiny random GPT-2 (no download) learns a language of 40 words. Then a new word turns up, always after word 7, once a
step among seven sentences of the old language. Printed is the NLL of the new word where it belongs after k sights, and
that of the old words, with and without the write. The first sight is written with weight 1/8, not outright: this
model's activations are several times as long as its rows, and a row of that length drowns every other word.
"""

import copy
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import firstsight  # firstsight

WORDS, NEW, BEFORE, LENGTH, SIGHTS = 40, 40, 7, 12, (1, 2, 4, 8)


def sentence(followers, new=False):
    words = [int(torch.randint(WORDS, ()))]
    for _ in range(LENGTH - 1):
        words.append(int(followers[words[-1], torch.randint(4, ())]))
    if new:
        at = int(torch.randint(1, LENGTH - 2, ()))
        words[at : at + 2] = [BEFORE, NEW]
    return {"input_ids": words, "labels": words}


def train(model, sentences, lr, callbacks=(), write=False):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    if write:
        counts = torch.full((WORDS + 1,), 9)  # firstsight
        counts[NEW] = 8  # firstsight
        firstsight.attach(model, optimizer, T=9, counts=counts, shift=1)  # firstsight
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
            with torch.no_grad():  # in training mode: this model has no dropout
                nll = -model(self.tokens).logits[:, :-1].log_softmax(-1).gather(2, self.tokens[:, 1:, None])[..., 0]
            new = self.tokens[:, 1:] == NEW
            self.nll[state.global_step] = float(nll[new].mean()), float(nll[~new].mean())


def main():
    for seed in range(3):
        torch.manual_seed(seed)
        followers = torch.randint(WORDS, (WORDS, 4))
        sizes = {"vocab_size": WORDS + 1, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
        trained = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
        train(trained, [sentence(followers) for _ in range(8 * 150)], 1e-2)
        late = [sentence(followers, new=i % 8 == 0) for i in range(8 * max(SIGHTS))]
        without = Measure([sentence(followers, new=True) for _ in range(100)])
        with_write = copy.deepcopy(without)
        train(copy.deepcopy(trained), late, 3e-3, [without])
        train(copy.deepcopy(trained), late, 3e-3, [with_write], write=True)
        for k in SIGHTS:
            (new0, old0), (new1, old1) = without.nll[k], with_write.nll[k]
            print(
                f"seed {seed}, {k} sights: new word {new0:.2f} -> {new1:.2f}, old words {old0:.2f} -> {old1:.2f} nats"
            )
            assert new1 < new0 / 2
            assert old1 < old0 + 0.1


if __name__ == "__main__":
    main()
