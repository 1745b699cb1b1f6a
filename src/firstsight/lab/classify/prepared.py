"""Stand-in: the vectors and the split as the processes of a trial read them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.lab.classify.settings import Trial
from firstsight.lab.classify.split import Split
from firstsight.lab.system.files import atomic_write, write_json


@dataclass(frozen=True)
class Prepared:
    """What a trial reads."""

    hidden: np.ndarray
    labels: list[str]
    texts: list[str] | None
    split: Split
    found: dict[str, Any]
    identity: str


def prepare(source: Any, settings: Trial, out: Path, *, encoder: str | None) -> Prepared:
    """Stand-in: ``source`` is a Prepared."""
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "h.npy", "wb") as file:
        np.save(file, source.hidden)
    split = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(source.split).items()}
    write_json(folder / "data.json", {"split": split, "found": source.found, "identity": source.identity})
    return source


def open_prepared(folder: Path) -> Prepared:
    """Stand-in."""
    told = json.loads((folder / "data.json").read_text())
    split = {k: np.array(v, dtype=np.int64) if k in ARRAYS else v for k, v in told["split"].items()}
    hidden = np.load(folder / "h.npy", mmap_mode="r")
    return Prepared(hidden, split["labels"], None, Split(**split), told["found"], told["identity"])


ARRAYS = ("train", "valid", "test", "shown_valid", "shown_test", "asked_valid", "asked_test")
