"""Small archives in Omniglot's layout: a few classes of 20 scribbles each."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = {"background": 3, "evaluation": 2}
"""As many as ``write_archives`` writes; tests put them in the place of the real numbers."""

_FOLDERS = {
    "background": [("Greek", "character01"), ("Greek", "character02"), ("Braille_(6)", "character01")],
    "evaluation": [("N_Ko", "character02"), ("N_Ko", "character01")],
}
_FIRST_NUMBER = {"background": 394, "evaluation": 965}


def scribble(seed: int) -> npt.NDArray[np.bool_]:
    """Ink of a made-up drawing: a few bars at places of its own."""
    rng = np.random.default_rng(seed)
    ink = np.zeros((105, 105), dtype=bool)
    for top, left, height, width in rng.integers(4, 50, (4, 4)):
        ink[top : top + height // 8 + 1, left : left + width] = True
        ink[left : left + height, top : top + 3] = True
    return ink


def png(ink: npt.NDArray[np.bool_], mode: str = "1") -> bytes:
    """A drawing as a file, black on white."""
    raw = io.BytesIO()
    Image.fromarray(~ink).convert(mode).save(raw, "PNG")
    return raw.getvalue()


def drawings(split: str) -> dict[str, npt.NDArray[np.bool_]]:
    """The ink of each member, in an order that is not the layout's."""
    found = {}
    for index, (alphabet, name) in enumerate(_FOLDERS[split]):
        number = _FIRST_NUMBER[split] + index
        for drawer in reversed(range(1, 21)):
            member = f"images_{split}/{alphabet}/{name}/{number:04}_{drawer:02}.png"
            found[member] = scribble(100 * number + drawer)
    return found


def members(split: str) -> dict[str, bytes]:
    """The files of an archive, by name."""
    return {member: png(ink) for member, ink in drawings(split).items()}


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_archives(folder: Path) -> Path:
    """Both archives in a folder."""
    for split in CLASSES:
        write_zip(folder / f"images_{split}.zip", members(split))
    return folder
