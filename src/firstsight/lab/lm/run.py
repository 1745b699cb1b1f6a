"""The folder of a run: what is saved in it, and how it is opened again.

A run is ``config.yaml``, ``vocabulary.json``, ``metrics.jsonl``, ``checkpoints/last.pt`` and ``best.pt``, and
after an evaluation ``result.json``, ``report.html`` and ``plots/``.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from firstsight.errors import InputError
from firstsight.heads import HebbianSoftmax, Softmax
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.lstm import LanguageModel, head_width
from firstsight.lab.runs.checkpoint import load_checkpoint, load_weights

# What a resumed run may change: when it ends and when it saves, but nothing that its weights have learnt under.
MAY_CHANGE = ("steps", "minutes", "patience", "checkpoint_every", "checkpoint_minutes")


@dataclass(frozen=True)
class Trained:
    """A trained model and what it was trained with."""

    model: LanguageModel
    vocabulary: Vocabulary
    data: str
    config: Config
    checkpoint: str
    step: int


def build_model(vocab_size: int, config: Config) -> LanguageModel:
    """The language model of these settings, freshly started; torch's random state decides its weights."""
    head: Softmax
    if config.head == "hebbian":
        head = HebbianSoftmax(
            head_width(config),
            vocab_size,
            T=config.T,
            gamma=config.gamma,
            bias=config.bias,
            rule=config.rule,
            prior_count=config.prior_count,
            record=config.tied and not config.write_embedding,
        )
    else:
        head = Softmax(head_width(config), vocab_size, bias=config.bias)
    return LanguageModel(vocab_size, config, head)


def open_run(folder: str | Path, checkpoint: str = "best") -> Trained:
    """Open a trained run: its model in evaluation mode, on a GPU where there is one.

    Raises:
        InputError: the folder is no run, or one of its files is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Give the folder of a run: what firstsight train --out made."
        )
    data, config = load_config(folder / "config.yaml")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    path = folder / "checkpoints" / f"{checkpoint}.pt"
    state = load_checkpoint(path)
    if state["vocabulary_hash"] != vocabulary.hash:
        raise InputError(f"{path}: the checkpoint was trained with another vocabulary than vocabulary.json beside it.")
    model = build_model(len(vocabulary), config)
    load_weights(model, state, path)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Trained(model, vocabulary, data, config, checkpoint, state["step"])


def check_folder(out: Path, config: Config, resume: bool) -> None:
    """Nothing is written before every setting has proved good: a mended command may then use the folder again."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "firstsight train was started in several processes; it trains in one. Start it without torchrun."
        )
    if not (out / "config.yaml").exists():
        return
    if not resume:
        raise InputError(f"{out} holds a run already. Continue it with --resume, or give --out another folder.")
    check_same(load_config(out / "config.yaml")[1], config, out)


def check_same(saved: Config, config: Config, out: Path) -> None:
    """Raise InputError if a run with the settings ``saved`` cannot go on with ``config``; ``out`` names it."""
    if what := saved.changes(config, MAY_CHANGE):
        raise InputError(
            f"{out} was trained with other settings: {what}. A resumed run may change only {', '.join(MAY_CHANGE)}. "
            "Leave the others out, and they are taken from the run, or start a new one."
        )
