"""A trained language model under transformers' Trainer meets a new word: with the write it expects it after one sight.

A tiny GPT-2 and a tiny Llama (random, no download) learn 40 words; then a new one comes, once a step, after word 7.
"""

import copy
import tempfile

import torch
import transformers

import firstsight  # firstsight

WORDS, NEW, BEFORE, LENGTH, SIGHTS = 40, 40, 7, 12, (1, 2, 4, 8)
QUIET = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "lr_scheduler_type": "constant"}
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = transformers.GPT2Config(**SIZE, n_positions=LENGTH, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
LLAMA = transformers.LlamaConfig(**SIZE, intermediate_size=64, tie_word_embeddings=False)


def sentence(followers, new=False):
    words = [int(torch.randint(WORDS, ()))]
    for _ in range(LENGTH - 1):
        words.append(int(followers[words[-1], torch.randint(4, ())]))
    if new:
        at = int(torch.randint(1, LENGTH - 2, ()))
        words[at : at + 2] = [BEFORE, NEW]
    return {"input_ids": words, "labels": words}


def train(model, sentences, lr, asked=None, seen=None):
    nlls = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    if seen:
        handle = firstsight.attach(model, optimizer, counts="trained", new=[NEW])  # firstsight
        with torch.no_grad(), handle.head.looking():  # firstsight
            for batch in torch.tensor([s["input_ids"] for s in seen]).split(64):  # firstsight
                model(input_ids=batch, labels=batch)  # firstsight

    class Ask(transformers.TrainerCallback):
        @torch.no_grad()
        def on_step_end(self, args, state, control, **kwargs):
            if asked is not None and state.global_step in SIGHTS:
                logp = model(asked).logits[:, :-1].log_softmax(-1)
                nll, new = -logp.gather(2, asked[:, 1:, None])[..., 0], asked[:, 1:] == NEW
                nlls[state.global_step] = float(nll[new].mean()), float(nll[~new].mean())

    with tempfile.TemporaryDirectory() as folder:
        told = transformers.TrainingArguments(folder, num_train_epochs=1, train_sampling_strategy="sequential", **QUIET)
        transformers.Trainer(model, told, None, sentences, optimizers=(optimizer, None), callbacks=[Ask()]).train()
    return nlls


def meet(config, seed, added=True):
    torch.manual_seed(seed)
    followers = torch.randint(WORDS, (WORDS, 4))
    config.vocab_size = WORDS if added else WORDS + 1
    model = transformers.AutoModelForCausalLM.from_config(config)
    seen = [sentence(followers) for _ in range(8 * 150)]
    train(model, seen, 1e-2)
    model.resize_token_embeddings(WORDS + 1, mean_resizing=False)
    late = [sentence(followers, new=i % 8 == 0) for i in range(8 * max(SIGHTS))]
    asked = torch.tensor([sentence(followers, new=True)["input_ids"] for _ in range(100)])
    return train(copy.deepcopy(model), late, 3e-3, asked), train(model, late, 3e-3, asked, seen)


def main():
    for config in (GPT2, LLAMA):
        without, with_write = meet(config, seed=0)
        for k, (new, old) in with_write.items():
            print(
                f"{config.model_type}, {k} sights: new word {without[k][0]:.2f} -> {new:.2f}, old words {old:.2f} nats"
            )
        assert with_write[1][0] < without[1][0] - 2, "the new word is known"
        assert with_write[1][1] < without[1][1] + 0.1, "the old ones too"


if __name__ == "__main__":
    main()
