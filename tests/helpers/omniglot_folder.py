"""Data folders as ``firstsight data omniglot`` leaves them, of drawings that are easily told apart."""

import hashlib
import json
from pathlib import Path

import numpy as np
from curriculum_runs import prototypes

from firstsight.lab.data.corpus import IMAGES


def write_images(folder: Path, images: np.ndarray) -> Path:
    """A data folder of these drawings, 20 of a class."""
    folder.mkdir(parents=True)
    np.save(folder / IMAGES, images)
    raw = (folder / IMAGES).read_bytes()
    alphabets = {"background": {"Greek": [f"character{i}" for i in range(len(images))]}, "evaluation": {}}
    array = {"shape": list(images.shape), "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    meta = {"corpus": "omniglot", "version": 1, "complete": True, "drawings": 20, "size": images.shape[2]}
    meta |= {"classes": {"background": len(images), "evaluation": 0}, "alphabets": alphabets, "images": array}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def write_data(folder: Path, classes: int) -> Path:
    """A data folder of so many classes."""
    return write_images(folder, prototypes(classes, drawings=20))
