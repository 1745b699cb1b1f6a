"""A trained run, opened: its model, what it was trained with and on, and the texts it can read.

A run is ``config.yaml``, ``vocabulary.json``, ``metrics.jsonl``, ``checkpoints/last.pt`` and ``best.pt``, and
after an evaluation ``result.json``, ``report.html`` and ``plots/``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.lstm import LanguageModel, head_width
from firstsight.lab.lm.reader import Text
from firstsight.lab.runs.checkpoint import TENSORS, load_checkpoint, load_weights
from firstsight.lab.runs.head import make_head
from firstsight.lab.runs.optimizer import make_optimizer
from firstsight.lab.system.devices import AUTO, find_device
from firstsight.lab.system.files import sha256
from firstsight.lab.system.job import world_size
from firstsight.lab.system.machine import check_model_fits
from firstsight.lab.system.manifest import DIGESTS, check_there, identity_of, is_listed
from firstsight.lab.system.shape import TEXT, WHOLE

# What a resumed run may change: when it ends and when it saves, but nothing that its weights have learnt under.
MAY_CHANGE = ("steps", "minutes", "patience", "checkpoint_every", "checkpoint_minutes")


WEIGHTS = {"vocabulary_hash": TEXT, "step": WHOLE, "model": TENSORS}  # what any checkpoint of a run has


@dataclass(frozen=True)
class Run:
    """A trained model, and what it was trained with."""

    folder: Path
    model: LanguageModel
    vocabulary: Vocabulary
    data: str
    """the data folder it was trained on, as it was then"""
    config: Config
    checkpoint: str
    """the name of the weights: "best" or "last" """
    step: int
    """of these weights"""
    moved: str | Path | None = None
    """where the data folder is now, if not where it was"""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name

    @property
    def device(self) -> torch.device:
        """Of its model."""
        return next(self.model.parameters()).device

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus it was trained on."""
        if self.moved is None and not Path(self.data).is_dir():
            raise InputError(
                f"{self.folder} was trained on {self.data}, which is not there. Say with --data where it is now."
            )
        corpus = open_corpus(self.moved or self.data)
        if corpus.vocabulary.hash != self.vocabulary.hash:
            raise InputError(
                f"{corpus.folder}: this data has another vocabulary than the one {self.folder} was trained with, so "
                "its token ids mean other words. Give --data the folder the run was trained on, or train on this one."
            )
        check_corpus(self.folder, corpus)
        return corpus

    def text(self, tokens: np.ndarray, *, size: int | None = None, chunk: int = 1, starts: Iterable[int] = ()) -> Text:
        """These tokens as its model reads them, in one stream; arguments as of ``Text``."""
        return Text(self.model, tokens, self.vocabulary.eos_id, size=size, chunk=chunk, starts=starts)

    def weights(self) -> dict[str, Any]:
        """Which weights these are: ``{"name", "step", "sha256"}``, the last of the checkpoint's file."""
        path = checkpoint_path(self.folder, self.checkpoint)
        return {"name": self.checkpoint, "step": self.step, "sha256": sha256(path)}


def checkpoint_path(folder: Path, name: str) -> Path:
    """The file of a run's weights, "best" or "last"."""
    return folder / "checkpoints" / f"{name}.pt"


def build_model(vocab_size: int, config: Config) -> LanguageModel:
    """The language model of these settings, freshly started; torch's random state decides its weights.

    Raises:
        InputError: settings that make no model, or one that no memory of this machine holds.
    """

    def made() -> LanguageModel:
        head = make_head(config, head_width(config), vocab_size, record=config.tied and not config.write_embedding)
        return LanguageModel(vocab_size, config, head)

    if torch.get_default_device().type != "meta":
        sizes = {name: getattr(config, name) for name in ("embedding", "hidden", "layers", "samples")}
        check_model_fits(made, f"{vocab_size:,} classes, {', '.join(f'{n} {size:,}' for n, size in sizes.items())}")
    return made()


def build_optimizer(model: LanguageModel, config: Config) -> torch.optim.Optimizer:
    """The optimizer of these settings for all of the model that trains."""
    checks: Any = torch.sparse.check_sparse_tensor_invariants
    if config.sparse and not checks.is_enabled():
        checks.disable()  # in so many words: else torch warns that they are off
    return make_optimizer(
        model.parameters(), config.optimizer, config.lr, weight_decay=config.weight_decay, momentum=config.momentum
    )


def open_run(folder: str | Path, checkpoint: str = "best", data: str | Path | None = None, device: str = AUTO) -> Run:
    """Open a trained run: its model in evaluation mode.

    Args:
        folder: the run.
        checkpoint: "best" or "last".
        data: the data folder, if it lies elsewhere than when the run was trained.
        device: where the model is put, as ``find_device`` takes it.

    Raises:
        InputError: the device is not there, the folder is no run, or one of its files is missing, damaged, or does not
            fit the others.
    """
    folder, place = Path(folder), find_device(device)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Give the folder of a run: what firstsight train --out made."
        )
    trained_on, config = load_config(folder / "config.yaml")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    path = checkpoint_path(folder, checkpoint)
    state = load_checkpoint(path, WEIGHTS)
    if state["vocabulary_hash"] != vocabulary.hash:
        raise InputError(f"{path}: the checkpoint was trained with another vocabulary than vocabulary.json beside it.")
    model = build_model(len(vocabulary), config)
    load_weights(model, state, path)
    model.eval().to(place)
    return Run(folder, model, vocabulary, trained_on, config, checkpoint, state["step"], data)


def check_folder(out: Path, config: Config, resume: bool) -> None:
    """Nothing is written before every setting has proved good: a mended command may then use the folder again."""
    if config.sparse and world_size() > 1:
        raise InputError(f"sparse is true in a job of {world_size()} processes; expected one process, or sparse=false.")
    config_file, last = out / "config.yaml", checkpoint_path(out, "last")
    parts = [config_file, out / "metrics.jsonl", last, checkpoint_path(out, "best")]
    there = [path for path in parts if path.exists()]
    if not resume and (there or any(map(is_listed, parts))):
        raise InputError(f"{out} holds a run already. Continue it with --resume, or give --out another folder.")
    check_there(*parts)
    lost = not (out / DIGESTS).exists() and [path for path in (config_file, last) if there and not path.exists()]
    if lost:
        raise InputError(
            f"{lost[0]}: there is no such file, but {there[0].name} of a run is beside it. Put it back from a copy, or "
            "move the folder away: training does not go on without it, and begins no run over what is left of one."
        )
    if config_file.exists():
        check_same(load_config(config_file)[1], config, out)


def check_corpus(out: Path, corpus: Corpus) -> None:
    """Raise InputError if a run was trained on other splits than a corpus of the same vocabulary has."""
    trained_on = identity_of(out)
    other = [name for name, digest in corpus.identity.items() if trained_on.get(name, digest) != digest]
    if other:
        raise InputError(
            f"{corpus.folder / other[0]}: this is another text than the one that {out} was trained with, though of the "
            "same vocabulary: its numbers would be of something else. Name the folder it was trained on with --data."
        )


def check_same(saved: Config, config: Config, out: Path) -> None:
    """Raise InputError if a run with the settings ``saved`` cannot go on with ``config``; ``out`` names it."""
    if what := saved.changes(config, MAY_CHANGE):
        raise InputError(
            f"{out} was trained with other settings: {what}. A resumed run may change only {', '.join(MAY_CHANGE)}. "
            "Leave the others out, and they are taken from the run, or start a new one."
        )
