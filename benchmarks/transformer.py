"""A transformer with and without the write: GPT-2 of transformers, two layers, random weights, words as tokens.

The loop that people have: AdamW, a rate that rises and falls, the loss of the model itself; the write by
``firstsight.attach``. Each head has the same three rates tried with seed 0, chosen by validation; then two more seeds,
and the test split, read at the end of each run. Windows of 128 words, in training and evaluation. What is done is in
OUT and is not done again; a run that was killed begins anew (5 minutes on one core).

    firstsight data stdlib --out data/stdlib
    OMP_NUM_THREADS=1 python benchmarks/transformer.py data/stdlib
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import firstsight
from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.lm.batches import Batches
from firstsight.lab.lm.evaluation import by_band, exp_or_inf
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import Bar, say

HEADS: dict[str, dict[str, Any] | None] = {"softmax": None, "sight": {}, "paper": {"rule": "paper"}}
RATES, SEEDS = (0.001, 0.003, 0.01), (0, 1, 2)
WINDOW, BATCH, PASSES, WARMUP, DECAY = 128, 16, 2, 50, 0.01
SIZES: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": WINDOW + 1}


def train(corpus: Corpus, head: str, rate: float, seed: int) -> dict[str, Any]:
    """One run: validation after each pass, both splits at its end."""
    transformers.set_seed(seed)
    vocabulary = corpus.vocabulary
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(vocabulary), bos_token_id=None, eos_token_id=None, **SIZES)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY)
    if (settings := HEADS[head]) is not None:
        firstsight.attach(model, optimizer, counts="new", **settings)
    batches = Batches(corpus.split("train"), BATCH, WINDOW, vocabulary.eos_id)
    steps, began, passes = PASSES * batches.steps_per_epoch, time.perf_counter(), []
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP) * (1 - step / steps)
    )
    with Bar(f"{head} {rate} seed {seed}", steps) as bar:
        for step in range(steps):
            input_BS, target_BS, _ = batches(step)
            tokens_BS = torch.cat([input_BS[:, :1], target_BS], 1)  # the model moves labels by one itself
            model.train()
            loss = model(input_ids=tokens_BS, labels=tokens_BS).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update(step + 1, f"loss {loss.item():.3f}")
            if (step + 1) % batches.steps_per_epoch == 0:
                passes.append(evaluate(model, corpus, "valid"))
    found = {"head": head, "rate": rate, "seed": seed, "steps": steps, "valid": passes}
    return found | {"test": evaluate(model, corpus, "test"), "seconds": time.perf_counter() - began, **provenance()}


@torch.no_grad()
def evaluate(model: Any, corpus: Corpus, split: str) -> dict[str, Any]:
    """Perplexity of a split in windows side by side, overall and by how often training had the word."""
    model.eval()
    target_N = corpus.split(split).astype(np.int64)
    tokens_N = np.concatenate([[corpus.vocabulary.eos_id], target_N])
    parts: list[Tensor] = []
    for at in range(0, len(target_N), WINDOW):
        tokens_1S = torch.from_numpy(tokens_N[at : at + WINDOW + 1])[None]
        logp_SV = model(input_ids=tokens_1S).logits[0, :-1].log_softmax(-1)
        parts.append(-logp_SV.gather(1, tokens_1S[0, 1:, None])[:, 0])
    nll, bands = by_band(torch.cat(parts).numpy(), corpus.vocabulary.counts[target_N])
    return {"perplexity": exp_or_inf(nll), "tokens": len(target_N), "bands": bands}


def main(given: Any) -> None:
    """All runs: first the rates with the first seed, then the other seeds at each head's best."""
    torch.set_num_threads(1)
    corpus, runs = open_corpus(given.data), []
    if given.out.exists():
        runs = read_json(given.out, "the runs of this benchmark")["runs"]

    def run(head: str, rate: float, seed: int) -> dict[str, Any]:
        done = [one for one in runs if (one["head"], one["rate"], one["seed"]) == (head, rate, seed)]
        if not done:
            done = [train(corpus, head, rate, seed)]
            runs.append(done[0])
            write_json(given.out, {"sizes": SIZES, "vocabulary": len(corpus.vocabulary), "runs": runs})
        found = done[0]["valid"][-1]["perplexity"], done[0]["test"]["perplexity"]
        say(f"{head} {rate} seed {seed}: valid {found[0]:.1f}, test {found[1]:.1f}")
        return dict(done[0])

    first = {(head, rate): run(head, rate, SEEDS[0]) for rate, head in itertools.product(RATES, HEADS)}
    for seed, head in itertools.product(SEEDS[1:], HEADS):
        run(head, min(RATES, key=lambda rate: first[head, rate]["valid"][-1]["perplexity"]), seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of a corpus with a test split")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transformer.json"))
    main(parser.parse_args())
