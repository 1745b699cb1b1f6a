"""What the tests of runs with memories share: plain loops in float64, small grids, and a tuned file."""

import numpy as np
import pytest
import torch
from training_runs import TINY

from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import train
from firstsight.lab.reading.sweep import sweep_memory
from firstsight.lab.system.files import sha256, write_json

CACHE = {"size": 150, "theta": 0.3}
MBPA = {"size": 150, "k": 16, "lr": 0.5, "beta": 0.5, "steps": 1}
MIXTURES = [{"weights": {"cache": 0.3}}, {"weights": {"mbpa": 0.2}}, {"weights": {"cache": 0.25, "mbpa": 0.1}}]
FEW = {"first": 700, "tokens": 150, "two_step_tokens": 12}  # of a sweep


def small_grids(monkeypatch):
    """Grids that a text of 1,500 tokens tells apart, read in several chunks."""
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 64)
    for name, value in {"CHUNK": 256, "STEP_CHUNK": 5, "SIZES": (40, 300), "THETAS": (0.1, 0.8)}.items():
        monkeypatch.setattr(f"firstsight.lab.reading.grids.{name}", value)
    monkeypatch.setattr("firstsight.lab.reading.grids.KS", (5, 20))
    monkeypatch.setattr("firstsight.lab.reading.grids.LRS", (0.1, 0.3, 2.0))


def train_small(corpus, folder):
    """A run that has learned a little."""
    train(corpus, folder, TINY.replace(head="softmax", steps=60, eval_every=60))
    return folder


def variants(result):
    """The mixtures of an evaluation, by name."""
    return {row["name"]: row for row in result["memory"]["variants"]}


def make_swept(corpus, folder):
    """A trained run whose memories were swept, and what was found."""
    train_small(corpus, folder)
    with pytest.MonkeyPatch.context() as patch:
        small_grids(patch)
        return folder, sweep_memory(folder, **FEW)


def write_tuned(run, path, checkpoint="best", **chosen):
    """What a sweep of this run writes, as far as an evaluation reads it."""
    step = open_run(run, checkpoint).step
    known = {"name": checkpoint, "step": step, "sha256": sha256(run / f"checkpoints/{checkpoint}.pt")}
    chosen = {"cache": CACHE, "mbpa": MBPA, "mixtures": MIXTURES} | chosen
    write_json(path, {"run": run.name, "checkpoint": known, "chosen": chosen})
    return path


def activations(trained, tokens):
    """[N, D] of the whole text at once, and the model's NLL [N], in float64."""
    inputs = np.concatenate([[trained.vocabulary.eos_id], tokens[:-1]]).astype(np.int64)
    with torch.no_grad():
        hidden = trained.model(torch.from_numpy(inputs)[None], None)[0][0].double().numpy()
        head = trained.model.head
        logits = hidden @ head.weight.double().numpy().T + (0 if head.bias is None else head.bias.double().numpy())
    return hidden, -log_softmax(logits)[np.arange(len(tokens)), tokens]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def plain_cache(hidden, tokens, size, theta, positions):
    """-log p_cache at some positions."""
    found = []
    for t in positions:
        seen = slice(max(0, t - size), t)
        scores = np.exp(theta * hidden[seen] @ hidden[t])
        right = scores[tokens[seen] == tokens[t]].sum()
        found.append(-np.log(right / scores.sum()) if right else np.inf)
    return np.array(found)


def plain_mbpa(head, hidden, tokens, size, k, lr, beta, steps, positions):
    """-log p_mbpa at some positions: adapted rows for each token, one after the other."""
    weight = head.weight.detach().double().numpy()
    bias = 0 if head.bias is None else head.bias.detach().double().numpy()
    found = []
    for t in positions:
        h_MD, y_M = hidden[max(0, t - size) : t][::-1], tokens[max(0, t - size) : t][::-1].astype(np.int64)
        distance = ((h_MD - hidden[t]) ** 2).sum(1)
        near = np.argsort(distance, kind="stable")[:k]
        share = 1 / (1e-3 + distance[near])
        share /= share.sum()
        adapted = weight.copy()
        for _ in range(steps):
            error = np.exp(log_softmax(h_MD[near] @ adapted.T + bias))
            error[np.arange(len(near)), y_M[near]] -= 1
            adapted = adapted - lr * (share[:, None] * error).T @ h_MD[near] - beta * (adapted - weight)
        found.append(-log_softmax(adapted @ hidden[t] + bias)[tokens[t]])
    return np.array(found)


def plain_mixture(model, parts):
    """NLL of a mixture; ``parts`` are pairs of a memory's NLL and its weight."""
    rest = 1 - sum(weight for _, weight in parts)
    return -np.log(rest * np.exp(-model) + sum(weight * np.exp(-nll) for nll, weight in parts))
