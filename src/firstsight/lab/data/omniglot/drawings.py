"""Omniglot (Lake et al. 2015): 1,623 classes of 20 drawings each, the characters of 50 alphabets, as one array.

The folder holds ``images.npy``, uint8 [classes, 20, size, size] from 0 (paper) to 255 (ink), and ``meta.json``, which
is written last and knows the array's length and checksum. Background classes come first; in each split classes are
ordered by alphabet and name. The first 5 drawings of a class are its test set, the other 15 train.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.data.arrays import map_array
from firstsight.lab.data.corpus import IMAGES, OMNIGLOT, STALE, read_meta
from firstsight.lab.data.omniglot.archives import (
    DRAWINGS,
    PIXELS,
    SPLITS,
    Character,
    archive_source,
    area_average,
    download,
    find_archive,
    list_characters,
    read_drawings,
)
from firstsight.lab.system.files import atomic_write, read_json, sha256, write_json
from firstsight.lab.system.folder import DATA
from firstsight.lab.system.machine import command_line
from firstsight.lab.system.progress import Bar
from firstsight.lab.system.replace import replacing

SIZE = 28
"""Pixels of an image, each way, where nothing else is asked for (our decision; the paper does not give its own)."""

SMALLEST = 8
"""The smallest image that can be asked for (our decision)."""

TEST_DRAWINGS = 5
"""The first so many drawings of a class test."""

_VERSION = 1
_MAKE = "Run firstsight data omniglot again"


@dataclass(frozen=True, eq=False)
class Omniglot:
    """A prepared folder of drawings.

    Attributes:
        folder: where it lies.
        images: uint8 [classes, 20, size, size] from 0 (paper) to 255 (ink), a read-only memory map.
        names: "Greek/character01" of each class.
        background: the number of classes of the background split, which come first.
        evaluation: the number of classes of the evaluation split.
        meta: what meta.json holds: sources, the command and version that made it.
    """

    folder: Path
    images: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    background: int
    evaluation: int
    meta: dict[str, Any]

    @property
    def train(self) -> npt.NDArray[np.uint8]:
        """The drawings that train, 6 to 20 of each class: [classes, 15, size, size]."""
        return self.images[:, TEST_DRAWINGS:]

    @property
    def test(self) -> npt.NDArray[np.uint8]:
        """The drawings that test, 1 to 5 of each class: [classes, 5, size, size]."""
        return self.images[:, :TEST_DRAWINGS]


def prepare(source: str | Path | None, out: str | Path, size: int = SIZE, cache: str | Path | None = None) -> Omniglot:
    """Make a folder of Omniglot's drawings.

    An older corpus in ``out`` stays as it was until all drawings were read; then this one takes its place.

    Args:
        source: a folder that holds ``images_background.zip`` and ``images_evaluation.zip``, at any depth. ``None``
            downloads both and checks their MD5. Of archives with another MD5 a line says so: their content is counted
            like that of the others, 964 and 659 classes of 20 drawings with 105 x 105 pixels each.
        size: pixels of an image each way, averaged over the area of the 105 x 105 drawn.
        cache: where downloads are kept; by default with the user's other caches.

    Raises:
        InputError: a size outside of 8 to 105; no such source; an archive missing, damaged, or laid out otherwise;
            other numbers of classes or drawings; a drawing that is no image, or of another size; no mirror that gives
            the archives as they were.
    """
    if not SMALLEST <= size <= PIXELS:
        raise InputError(f"The size is {size}; expected {SMALLEST} to {PIXELS} pixels, {PIXELS} being those drawn.")
    if source is not None and cache is not None:
        raise InputError(
            f"The cache {cache} is for downloads, and --from names a source already. Leave one of them out."
        )
    folder = download(cache) if source is None else Path(source)
    archives = {split: find_archive(folder, split) for split in SPLITS}
    sources = [archive_source(path, split) for split, path in archives.items()]
    characters = {split: list_characters(path, split) for split, path in archives.items()}
    out = Path(out)
    with replacing(out, DATA, STALE) as new:
        images = _write_images(new, archives, characters, size)
        write_json(new / "meta.json", _described_by(images, characters, size, sources))
    return open_omniglot(out)


def _described_by(
    images: dict[str, Any],
    characters: Mapping[str, Sequence[Character]],
    size: int,
    sources: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What meta.json holds."""
    return {
        "corpus": OMNIGLOT,
        "version": _VERSION,
        "classes": {split: len(characters[split]) for split in SPLITS},
        "drawings": DRAWINGS,
        "size": size,
        "images": images,
        "alphabets": {split: _by_alphabet(characters[split]) for split in SPLITS},
        "sources": sources,
        "command": command_line(),
        "firstsight": __version__,
        "complete": True,
    }


def open_omniglot(folder: str | Path) -> Omniglot:
    """Open a folder of drawings, after checking all of its array.

    Raises:
        InputError: it is no such folder, was not finished, is of another version, or its files are damaged.
    """
    folder = Path(folder)
    meta = _described(folder)
    path, described = folder / IMAGES, meta["images"]
    try:
        names = {split: _names(meta["alphabets"][split]) for split in SPLITS}
        classes = {split: len(names[split]) for split in SPLITS}
        shape = (sum(classes.values()), DRAWINGS, meta["size"], meta["size"])
        sound = meta["classes"] == classes and meta["drawings"] == DRAWINGS and described["shape"] == list(shape)
        expected_bytes, checksum = int(described["bytes"]), described["sha256"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unsound(folder, f"{type(error).__name__}: {error}") from error
    if not sound:
        raise _unsound(folder, "its numbers contradict each other")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file, and it should hold the drawings. {_MAKE}.")
    if path.stat().st_size != expected_bytes:
        raise InputError(
            f"{path}: meta.json promises {expected_bytes:,} bytes, and the file has {path.stat().st_size:,}: it was "
            f"cut short or added to. {_MAKE}, or copy the file anew."
        )
    if sha256(path) != checksum:
        raise InputError(
            f"{path}: the drawings do not fit the checksum in meta.json: bytes were altered on the disk or on the way. "
            f"{_MAKE}, or copy the file anew."
        )
    images = map_array(path, np.uint8, "this array of drawings", f"{_MAKE}, or copy the file anew.")
    if images.shape != shape:
        raise _unsound(folder, f"the array is {images.dtype} {list(images.shape)}")
    return Omniglot(folder, images, tuple(name for split in SPLITS for name in names[split]), **classes, meta=meta)


def holds_omniglot(folder: str | Path) -> bool:
    """Whether a data folder says of itself that it holds Omniglot, sound or not."""
    path = Path(folder) / "meta.json"
    meta = read_json(path, "the description of a data folder") if path.is_file() else None
    return isinstance(meta, dict) and meta.get("corpus") == OMNIGLOT


def summary(omniglot: Omniglot) -> dict[str, Any]:
    """What ``data omniglot`` and ``data info`` print as JSON; ``drawings`` are those of all classes."""
    meta = omniglot.meta
    return {
        "corpus": OMNIGLOT,
        "folder": str(omniglot.folder),
        "classes": meta["classes"],
        "alphabets": {split: len(alphabets) for split, alphabets in meta["alphabets"].items()},
        "drawings": len(omniglot.images) * DRAWINGS,
        "drawings_per_class": {"train": DRAWINGS - TEST_DRAWINGS, "test": TEST_DRAWINGS},
        "size": meta["size"],
        "bytes": meta["images"]["bytes"],
        "sources": meta["sources"],
        "command": meta["command"],
    }


def _by_alphabet(characters: Sequence[Character]) -> dict[str, list[str]]:
    alphabets = groupby(characters, attrgetter("alphabet"))
    return {alphabet: [character.name for character in group] for alphabet, group in alphabets}


def _names(alphabets: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{alphabet}/{name}" for alphabet, names in alphabets.items() for name in names]


def _write_images(
    out: Path, archives: Mapping[str, Path], characters: Mapping[str, Sequence[Character]], size: int
) -> dict[str, Any]:
    """Write the array class by class, which appears when it is whole; its shape, bytes and SHA-256."""
    shape = (sum(map(len, characters.values())), DRAWINGS, size, size)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    checksum = hashlib.sha256(header.getvalue())
    with Bar("omniglot, drawings", shape[0] * DRAWINGS) as bar, atomic_write(out / IMAGES, "wb") as file:
        file.write(header.getvalue())
        for split, path in archives.items():
            for ink in read_drawings(path, split, characters[split]):
                block = area_average(ink, size)
                checksum.update(block.data)
                file.write(block.data)
                bar.advance(DRAWINGS)
        written = file.tell()
    return {"name": IMAGES, "shape": list(shape), "bytes": written, "sha256": checksum.hexdigest()}


def _described(folder: Path) -> dict[str, Any]:
    meta = read_meta(folder, "one that firstsight data omniglot made", _MAKE)
    if isinstance(meta, dict) and meta.get("corpus") not in (None, OMNIGLOT):
        raise InputError(
            f"{folder}: this data folder holds {meta['corpus']}. Expected drawings: make them with firstsight data "
            "omniglot."
        )
    if not isinstance(meta, dict) or meta.get("corpus") != OMNIGLOT or meta.get("complete") is not True:
        raise _unsound(folder, "it does not describe finished drawings")
    if meta.get("version") != _VERSION:
        raise InputError(
            f"{folder}: these drawings are in version {meta.get('version')!r} of the format, and this firstsight reads "
            f"version {_VERSION}. {_MAKE}, or use the firstsight that wrote them."
        )
    if not isinstance(meta.get("images"), dict):
        raise _unsound(folder, "it does not describe the array")
    return meta


def _unsound(folder: Path, why: str) -> InputError:
    return InputError(f"{folder}: meta.json is damaged, or was written for other drawings ({why}). {_MAKE}.")
