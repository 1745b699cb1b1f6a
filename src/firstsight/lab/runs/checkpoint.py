"""Checkpoints: whole or not at all, sealed with a checksum, and never unpickled from outside."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write

FORMAT = 1
SEAL = 66  # bytes at the end of a checkpoint that hold its checksum


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
    """Read a checkpoint, after checking that every byte is as it was written."""
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
        raise InputError(f"{path}: this is no checkpoint of firstsight ({_first_line(error)}). {mend}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, which this version of firstsight writes.")
    return state


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a model."""
    try:
        model.load_state_dict(state["model"], strict=True)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: the checkpoint is of another model than the settings beside it say ({_first_line(error)}). "
            "Put back the config.yaml it was trained with, or train again."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
