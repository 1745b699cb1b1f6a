"""The folder of a run: what is saved in it, how it is opened again, and where its numbers come from.

A run is ``config.yaml``, ``vocabulary.json``, ``metrics.jsonl``, ``checkpoints/last.pt`` and ``best.pt``, and
after an evaluation ``result.json``, ``report.html`` and ``plots/``.
"""

import io
import json
import os
import pickle
import platform
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engram._version import __version__
from engram.config import Config, load_config
from engram.data.vocabulary import Vocabulary
from engram.errors import InputError
from engram.files import atomic_write
from engram.heads import HebbianSoftmax, Softmax
from engram.models.lstm import LanguageModel, head_width

FORMAT = 1


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
        head = HebbianSoftmax(head_width(config), vocab_size, T=config.T, gamma=config.gamma, bias=config.bias)
    else:
        head = Softmax(head_width(config), vocab_size, bias=config.bias)
    return LanguageModel(vocab_size, config, head)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. A full disk raises ``OSError`` and leaves the one before."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save({"format": FORMAT, **state}, buffer)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, its checksums first (torch's reader does not look at them).

    Raises:
        InputError: it is missing, damaged, or of another version.
    """
    mend = f"Delete it and train again, or use the other checkpoint in {path.parent}."
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such checkpoint. A run has one after its first checkpoint_every steps, or when it "
            "has ended: is this the folder of a run that got so far?"
        ) from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: this is no checkpoint, or a damaged one ({_first_line(error)}). {mend}") from error
    if damaged:
        raise InputError(f"{path}: the checkpoint is damaged: the checksum of {damaged} does not fit. {mend}")
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
    """Open a trained run: its model on the CPU, in evaluation mode.

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
    return Trained(model.eval(), vocabulary, data, config, checkpoint, state["step"])


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``, on the disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_metrics(path: Path, step: int) -> None:
    """Drop what ``metrics.jsonl`` holds past ``step``: a resumed run writes it again."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break  # the line that a kill cut off, the last one
    with atomic_write(path) as file:
        file.writelines(kept)


def provenance() -> dict[str, Any]:
    """Where a number comes from: versions, commit (None outside a checkout), machine and command."""
    return {
        "engram_version": __version__,
        "torch_version": torch.__version__,
        "git_commit": _git_commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _git_commit() -> str | None:
    package = Path(__file__).resolve().parent
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        # A checkout of something else around an installed package says nothing about engram.
        tracked = subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True)
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() or None if tracked.returncode == 0 else None


def _processor() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
