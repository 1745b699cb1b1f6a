"""What the processes of a trial read: vectors, labels and the split, in a folder that is checked on opening.

``data.json`` is written last and knows the size and SHA-256 of every file beside it: ``hidden.npy`` (float32 [N, D], N
examples of D features), ``split.npz``, ``labels.json`` and, where there are texts, ``texts.json``.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.classify.data import texts as vectors_of
from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.data.split import ARRAYS, Duplicates, Split, make_split
from firstsight.lab.classify.settings import ASKED, MOST_ASKED, SHOTS, Trial
from firstsight.lab.data.arrays import load_arrays, map_array
from firstsight.lab.system.files import atomic_write, read_json, regular_file, sha256, write_json
from firstsight.lab.system.progress import say
from firstsight.lab.system.replace import check_no_folder
from firstsight.lab.system.shape import OBJECT, TEXT, WHOLE, Named, check_shape

MANIFEST = "data.json"
PLAN = "plan.json"  # of the trial, beside the folder of its data
COUNTED = "TF-IDF of character n-grams + truncated SVD"
_VERSION = 1
_WHAT = "the description of a trial's data"
_MEND = "Delete the folder, and run firstsight try again"
_CLASSES = ("classes", "new_valid", "new_test")

_CONTENT = {"files": Named({"bytes": WHOLE, "sha256": TEXT}), "found": OBJECT, **{name: [TEXT] for name in _CLASSES}}


@dataclass(frozen=True, eq=False)
class Prepared:
    """The data of a trial.

    Attributes:
        folder: where they lie.
        hidden: [N, D] float32, a read-only memory map, as the encoder gave them.
        labels: N labels.
        split: who trains, who is asked, which classes come later.
        found: what the data are, plain values for ``trial.json``.
        identity: a checksum of all of it: results of another identity belong to other data.
    """

    folder: Path
    hidden: npt.NDArray[np.float32]
    labels: list[str]
    split: Split
    found: dict[str, Any]
    identity: str

    @cached_property
    def texts(self) -> list[str] | None:
        """N texts, read when they are asked for (a process that trains does without); None where there are none."""
        if not self.found["texts"]:
            return None
        texts: list[str] = read_json(self.folder / "texts.json", "the texts of a trial", [TEXT])
        return texts


def prepare(source: Source, settings: Trial, out: str | Path, *, encoder: str | None = None) -> Prepared:
    """Split the source, turn texts into vectors, and write all of it to ``out/data``; what is there already is used.

    Killed, the same call goes on: blocks of encoded texts are kept. Nothing is written before the split is drawn and
    the encoder loaded.

    Args:
        settings: of them ``seed``, ``new_classes`` and ``test_share`` decide.
        encoder: a sentence-transformers folder or name; by default words are counted.

    Raises:
        InputError: the source cannot be split so, the encoder does not load, an encoder for what are vectors already,
            or the folder holds something else.
    """
    if encoder is not None and source.vectors is not None:
        raise InputError(f"{source.name} holds vectors already, and --encoder {encoder} is for texts. Leave it out.")
    folder = Path(out) / "data"
    request = _request(source, settings, encoder)
    before = _before(folder)
    if before.get("complete") is True and before.get("request") == request:
        try:
            return open_prepared(folder)
        except InputError as error:
            say(f"{folder} is made anew: {error}")
    elif before.get("complete") is True:
        if (folder.parent / PLAN).exists():
            raise InputError(
                f"{folder}: these are other data, or of another split or encoder, and {out} holds a trial of them. "
                "Give this one an --out of its own."
            )
        say(f"{folder} was made of other data, or with other settings, and is made anew")
    split, duplicates, notes = make_split(source, settings)
    blocks = folder / "blocks" / _digest(request)[:16]
    model = None if encoder is None else vectors_of.load_encoder(encoder)
    for name in (MANIFEST, "hidden.npy", "split.npz", "labels.json", "texts.json"):
        check_no_folder(folder / name)
    write_json(folder / MANIFEST, {"version": _VERSION, "complete": False, "request": request})
    if source.vectors is not None:
        hidden: Iterable[npt.NDArray[np.float32]] = [source.vectors]
    else:
        assert source.texts is not None
        hidden = (
            [vectors_of.counted(source.texts, split.train)]
            if model is None
            else vectors_of.encode(source.texts, model, blocks)
        )
    _write_hidden(folder / "hidden.npy", hidden, len(source))
    with atomic_write(folder / "split.npz", "wb") as file:
        np.savez(file, **{name: getattr(split, name) for name in ARRAYS})
    write_json(folder / "labels.json", source.labels)
    if source.texts is not None:
        write_json(folder / "texts.json", source.texts)
    h_ND = np.load(folder / "hidden.npy", mmap_mode="r", allow_pickle=False)
    found = describe(source, split, duplicates, notes, h_ND, encoder)
    names = ["hidden.npy", "split.npz", "labels.json", *(["texts.json"] if source.texts is not None else [])]
    content = {
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names},
        "found": found,
        **{name: getattr(split, name) for name in _CLASSES},
    }
    manifest = {"version": _VERSION, "complete": True, "request": request, **content, "identity": _digest(content)}
    write_json(folder / MANIFEST, manifest)
    _tidy(folder)
    return open_prepared(folder)


def open_prepared(folder: str | Path) -> Prepared:
    """Open ``out/data``, after checking all of its files.

    Raises:
        InputError: the folder or a file is missing, was not finished, is damaged, or belongs to other data.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST, _WHAT)
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION:
        raise InputError(f"{folder / MANIFEST}: this is not {_WHAT} that this firstsight wrote. {_MEND}.")
    if manifest.get("complete") is not True:
        raise InputError(f"{folder}: these data were not finished. Run the same firstsight try again: it goes on.")
    try:
        content = {name: manifest[name] for name in ("files", "found", *_CLASSES)}
        files, found, sound = dict(content["files"]), content["found"], _digest(content) == manifest["identity"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / MANIFEST}: this should be {_WHAT} and is damaged ({error!r}). {_MEND}.") from error
    if not sound:
        raise InputError(f"{folder / MANIFEST}: its checksum does not fit: it was altered. {_MEND}.")
    check_shape(content, _CONTENT, str(folder / MANIFEST), f"{_MEND}.")
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: there is no such file, and {MANIFEST} names it. {_MEND}.")
        if path.stat().st_size != about["bytes"] or sha256(path) != about["sha256"]:
            raise InputError(f"{path}: the file does not fit the checksum in {MANIFEST}: it was altered. {_MEND}.")
    hidden = map_array(folder / "hidden.npy", np.float32, "this array of vectors", f"{_MEND}.")
    parts: dict[str, Any] = {name: content[name] for name in _CLASSES}
    parts |= load_arrays(folder / "split.npz", ARRAYS, "the split of a trial", f"{_MEND}.")
    split = Split(**parts)
    return Prepared(
        folder,
        hidden,
        read_json(folder / "labels.json", "the labels of a trial", [TEXT]),
        split,
        found,
        manifest["identity"],
    )


def describe(
    source: Source,
    split: Split,
    duplicates: Duplicates,
    notes: list[str],
    h_ND: npt.NDArray[np.float32],
    encoder: str | None,
) -> dict[str, Any]:
    """What the data are, as plain values. ``below_5`` and so on are numbers of classes by their examples."""
    sizes = list(Counter(source.labels).values())
    zero, flat, low_D, high_D = 0, 0, h_ND[0], h_ND[0]
    for start in range(0, len(h_ND), 4096):
        block = h_ND[start : start + 4096]
        zero += int((~block.any(1)).sum())
        flat += int((block == block[:, :1]).all(1).sum())
        low_D, high_D = np.minimum(low_D, block.min(0)), np.maximum(high_D, block.max(0))
    cut = sum(len(text) > vectors_of.LETTERS for text in source.texts or []) if encoder is None else 0
    constant = int((low_D == high_D).sum())
    told = source.notes + notes
    if cut and source.vectors is None:
        told.append(
            f"{cut:,} texts are longer than {vectors_of.LETTERS:,} characters: what comes after is not looked at."
        )
    if zero:
        told.append(f"{zero:,} texts have nothing in common with those that train: their vectors are zero.")
    if flat > zero:
        told.append(f"{flat - zero:,} vectors hold one number throughout.")
    if constant:
        told.append(f"{constant:,} of {h_ND.shape[1]:,} features are the same in every row.")
    return {
        "name": source.name,
        "checksum": source.checksum,
        "integers": source.integers,
        "rows": len(source),
        "of_file": source.counts.get("of_file", len(source)),
        "classes": len(sizes),
        "features": h_ND.shape[1],
        "below_5": sum(size < 5 for size in sizes),
        "5_to_20": sum(5 <= size <= 20 for size in sizes),
        "above_20": sum(size > 20 for size in sizes),
        "left_out": {name: n for name, n in source.counts.items() if name != "of_file"},
        "duplicates": {"rows": duplicates.rows, "across": duplicates.across},
        "zero": zero,
        "constant_vectors": flat,
        "constant_features": constant,
        "encoder": None if source.vectors is not None else encoder or COUNTED,
        "texts": source.texts is not None,
        "own_split": source.part is not None,
        "train": len(split.train),
        "valid": len(split.valid),
        "test": len(split.test),
        "asked_valid": len(split.asked_valid),
        "asked_test": len(split.asked_test),
        "old_classes": len(split.classes),
        "new_valid": len(split.new_valid),
        "new_test": len(split.new_test),
        "notes": told,
    }


def _request(source: Source, settings: Trial, encoder: str | None) -> dict[str, Any]:
    """All that decides the folder's content."""
    content = hashlib.sha256(json.dumps([source.labels, source.texts, source.part, source.notes]).encode())
    if source.vectors is not None:
        content.update(np.ascontiguousarray(source.vectors).data)
    drawn = {name: getattr(settings, name) for name in ("seed", "new_classes", "test_share")}
    encoded: Any = vectors_of.encoder_key(encoder) if encoder is not None else None
    if encoder is None and source.texts is not None and source.vectors is None:
        import sklearn

        encoded = {"name": COUNTED, "scikit-learn": sklearn.__version__}
    return {
        "content": content.hexdigest(),
        "name": source.name,
        "settings": drawn | {"shown": list(SHOTS), "asked": [ASKED, MOST_ASKED]},
        "encoder": encoded,
    }


def _before(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote of the folder; a folder of something else is refused."""
    path = folder / MANIFEST
    if os.path.lexists(path):
        regular_file(path, _WHAT)
        try:
            before = read_json(path, _WHAT)
        except InputError as error:
            say(f"{folder} is made anew: {error}")
            return {}
        if isinstance(before, dict) and "request" in before:
            return before
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise InputError(
            f"{folder}: this is no folder that firstsight try made, and it would write there. Give another --out, or "
            "move it away."
        )
    return {}


def _write_hidden(path: Path, blocks: Iterable[npt.NDArray[np.float32]], rows: int) -> None:
    """The blocks as one array, of which no more than a block is in memory."""
    with atomic_write(path, "wb") as file:
        every: Iterator[npt.NDArray[np.float32]] = iter(blocks)
        block = next(every)
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, block.shape[1])}
        np.lib.format.write_array_header_1_0(file, about)
        file.write(np.ascontiguousarray(block, dtype="<f4").data)
        for block in every:
            file.write(np.ascontiguousarray(block, dtype="<f4").data)


def _tidy(folder: Path) -> None:
    """Take away the encoder's blocks, and what killed processes left of files that they had not finished."""
    shutil.rmtree(folder / "blocks", ignore_errors=True)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
