"""The folder of a run: what is saved in it, and how it is opened again.

A run is ``config.yaml``, ``vocabulary.json``, ``metrics.jsonl``, ``checkpoints/last.pt`` and ``best.pt``, and
after an evaluation ``result.json``, ``report.html`` and ``plots/``.
"""

import hashlib
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engram.config import Config, load_config
from engram.data.vocabulary import Vocabulary
from engram.errors import InputError
from engram.files import atomic_write
from engram.heads import HebbianSoftmax, Softmax
from engram.models.lstm import LanguageModel, head_width

FORMAT = 1
# What a resumed run may change: when it ends and when it saves, but nothing that its weights have learnt under.
MAY_CHANGE = ("steps", "minutes", "patience", "checkpoint_every", "checkpoint_minutes")
SEAL = 66  # bytes at the end of a checkpoint that hold its checksum


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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. A full disk raises ``OSError`` and leaves the one before."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getbuffer()
    assert bytes(content[-2:]) == b"\0\0", "torch wrote a zip archive with a comment"
    with atomic_write(path, "wb") as file:
        file.write(content[:-2])
        file.write(_seal(content[:-2]))


def _seal(content: memoryview) -> bytes:
    """The SHA-256 of a zip archive as its comment, which ends it: its length in two bytes, then its text.

    The archive's own checksums do not cover its directory: bytes flipped there changed weights unnoticed. For
    ``torch.load`` and ``unzip`` the file is as ever.
    """
    digest = hashlib.sha256(content).hexdigest().encode()
    return len(digest).to_bytes(2, "little") + digest


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, after checking that every byte is as it was written.

    Raises:
        InputError: it is missing, damaged, or of another version.
    """
    mend = f"Delete it and train again, or use the other checkpoint in {path.parent}."
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such checkpoint. A run has one after its first checkpoint_every steps, or when it "
            "has ended: is this the folder of a run that got so far?"
        ) from error
    end = len(content) - SEAL
    if end < 0 or content[end:] != _seal(memoryview(content)[:end]):
        raise InputError(f"{path}: this is no checkpoint, or a damaged one: its checksum does not fit. {mend}")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise InputError(f"{path}: this is no checkpoint of engram ({_first_line(error)}). {mend}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, which this version of engram writes.")
    return state


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        InputError: they are those of a model of another shape.
    """
    try:
        model.load_state_dict(state["model"], strict=True)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: the checkpoint is of another model than the settings beside it say ({_first_line(error)}). "
            "Put back the config.yaml it was trained with, or train again."
        ) from error


def open_run(folder: str | Path, checkpoint: str = "best") -> Trained:
    """Open a trained run: its model in evaluation mode, on a GPU where there is one.

    Raises:
        InputError: the folder is no run, or one of its files is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the folder of a run: what engram train --out made.")
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
        raise InputError("engram train was started in several processes; it trains in one. Start it without torchrun.")
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


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``, on the disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_metrics(path: Path, step: int) -> None:
    """Drop what ``metrics.jsonl`` holds past ``step``, and a last line that a kill cut off: both are written again.

    Raises:
        InputError: another line is damaged.
    """
    kept = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: this is no line of a run's metrics ({error}). Delete it and run again."
            ) from error
    with atomic_write(path, "wb") as file:
        file.writelines(kept)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
