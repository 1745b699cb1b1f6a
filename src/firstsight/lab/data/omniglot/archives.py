"""The archives of Omniglot: fetched, checked, and read in place; nothing in them is ever unpacked on the disk.

A member is ``images_background/Greek/character01/0394_01.png``: split, alphabet, class, the class's number in the whole
data set, and who drew it. Each is a PNG of 105 x 105 black and white pixels.
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pooch
from PIL import Image

from firstsight.errors import InputError
from firstsight.lab.data.arrays import opened_zip
from firstsight.lab.data.corpus import file_source
from firstsight.lab.data.download import fetch
from firstsight.lab.system.files import digest
from firstsight.lab.system.progress import say

PIXELS = 105
"""Pixels of a drawing, each way."""

DRAWINGS = 20
"""Drawings of a class, each by another hand."""

CLASSES = {"background": 964, "evaluation": 659}
"""Classes by split."""

SPLITS = tuple(CLASSES)

_MIRRORS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python",
    "https://github.com/brendenlake/omniglot/raw/master/python",
)
_MD5 = {
    "background": "68d2efa1b9178cc56df9314c21c6e718",
    "evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
_MOST_PACKED = 16 << 20  # the archives have 9 and 6 MiB
_MAX_BYTES = 1 << 20  # the longest PNG has 522; a zip can be made to unpack to terabytes
_BROKEN = "this archive is damaged or was cut short, or is no zip"
_BOTH = " and ".join(f"images_{split}.zip" for split in SPLITS)
_LAYOUT = re.compile(r"images_(\w+)/(\w[\w().' -]*)/(character[0-9]{2,})/([0-9]{4})_([0-9]{2})\.png")
_FOLDER = re.compile(r"images_(\w+)/(\w[\w().' -]*/(character[0-9]{2,}/)?)?")
_LEFT_BY_DESKTOPS = re.compile(r"__MACOSX/.*|(.*/)?(\.DS_Store|\._[^/]*|Thumbs\.db)")
_IMAGE_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Character:
    """A class: its alphabet, its name in it ("character01"), and its drawings' members, in the order of who drew."""

    alphabet: str
    name: str
    members: tuple[str, ...]


def download(cache: str | Path | None = None, mirrors: Sequence[str] = _MIRRORS) -> Path:
    """The folder of both official archives, which are fetched where it lacks them."""
    folder = Path(cache) if cache else Path(pooch.os_cache("firstsight")) / "omniglot"
    for split in SPLITS:
        name = f"images_{split}.zip"
        urls = [f"{mirror}/{name}" for mirror in mirrors]
        by_hand = f"use --from FOLDER with a folder that holds {_BOTH}"
        fetch(urls, folder / name, md5=_MD5[split], most=_MOST_PACKED, by_hand=by_hand)
    return folder


def find_archive(folder: Path, split: str) -> Path:
    """The archive of a split, at any depth of a folder; of several the one that lies highest."""
    if not folder.is_dir():
        what = "this is a file" if folder.is_file() else "there is no such folder"
        raise InputError(f"{folder}: {what}. Expected the folder that holds {_BOTH}.")
    name = f"images_{split}.zip"
    found = sorted((path for path in folder.rglob(name) if path.is_file()), key=lambda path: (len(path.parts), path))
    if not found:
        raise InputError(
            f"{folder}: there is no {name} in this folder. Expected {_BOTH}: put both into it (a folder of images that "
            "was unpacked must be zipped again), or leave --from out to download them."
        )
    return found[0]


def archive_source(path: Path, split: str) -> dict[str, Any]:
    """The entry of an archive in meta.json; says so where it is not the official one to the byte."""
    md5 = digest(path, "md5")
    official = md5 == _MD5[split]
    if not official:
        say(
            f"{path}: the MD5 is {md5}, and {_MD5[split]} that of the official archive: zipped anew, or altered. Its "
            "content is checked instead."
        )
    return {**file_source(path), "md5": md5, "official": official}


def list_characters(path: Path, split: str) -> list[Character]:
    """The classes of an archive, by alphabet and name; looks at the members' names alone.

    Raises:
        InputError: the file is no zip, or cut short; a member lies elsewhere than it should; a class has other than
            ``DRAWINGS`` drawings; there are other than ``CLASSES[split]`` classes.
    """
    found: dict[tuple[str, str], dict[int, str]] = {}
    numbers: dict[tuple[str, str], str] = {}
    with opened_zip(path, _BROKEN, _mend(split)) as archive:
        for member in archive.namelist():
            place = _place(path, split, member)
            if place is None:
                continue
            alphabet, name, number, drawer = place
            first = numbers.setdefault((alphabet, name), number)
            if first != number:
                raise InputError(
                    f"{path}: {alphabet}/{name} holds drawings of the classes {first} and {number}: two classes are "
                    f"mixed. {_mend(split)}"
                )
            drawings = found.setdefault((alphabet, name), {})
            if int(drawer) in drawings:
                raise InputError(f"{path}: {member} is there twice. {_mend(split)}")
            drawings[int(drawer)] = member
    for (alphabet, name), drawings in found.items():
        _check_drawers(path, split, f"{alphabet}/{name}", drawings)
    if len(found) != CLASSES[split]:
        raise InputError(
            f"{path}: {len(found):,} classes; the {split} split of Omniglot has {CLASSES[split]:,} of {DRAWINGS} "
            f"drawings each. {_mend(split)}"
        )
    return [
        Character(alphabet, name, tuple(member for _, member in sorted(drawings.items())))
        for (alphabet, name), drawings in sorted(found.items())
    ]


def read_drawings(path: Path, split: str, characters: Sequence[Character]) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield the drawings of each class, [DRAWINGS, PIXELS, PIXELS], True where there is ink."""
    with opened_zip(path, _BROKEN, _mend(split)) as archive:
        for character in characters:
            yield np.stack([_ink(path, split, member, _content(archive, member)) for member in character.members])


def area_average(ink: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.uint8]:
    """Drawings [N, PIXELS, PIXELS] at ``size``, [N, size, size]: the share of each new pixel that is ink, times 255.

    A pixel that lies across an edge counts on both sides by its parts. The sums are of whole numbers below 2^24, exact
    in float32, so every machine makes the same bytes.
    """
    edges = np.arange(size + 1) * PIXELS, np.arange(PIXELS + 1) * size  # both in parts of a pixel, 1/size of it each
    over = np.minimum(edges[0][1:, None], edges[1][1:]) - np.maximum(edges[0][:-1, None], edges[1][:-1])
    parts = np.maximum(over, 0).astype(np.float32)  # [size, PIXELS]
    sums: npt.NDArray[np.int64] = (parts @ ink.astype(np.float32) @ parts.T).astype(np.int64)
    whole = PIXELS * PIXELS
    shares: npt.NDArray[np.uint8] = ((255 * sums + whole // 2) // whole).astype(np.uint8)
    return shares


def _place(path: Path, split: str, member: str) -> tuple[str, str, str, str] | None:
    """Alphabet, class, number and drawer of a member; None for a folder and for what desktops leave behind."""
    name = member.replace("\\", "/")
    outside = name.startswith("/") or ".." in name.split("/") or ":" in name
    if not outside:
        if _LEFT_BY_DESKTOPS.fullmatch(name):
            return None
        layout = _LAYOUT.fullmatch(name) or _FOLDER.fullmatch(name)
        if layout is not None and layout[1] == split:
            return (layout[2], layout[3], layout[4], layout[5]) if layout.re is _LAYOUT else None
    raise InputError(
        f"{path}: the member {member!r} {'leads outside of the archive' if outside else 'lies elsewhere'}; expected "
        f"images_{split}/ALPHABET/characterNN/XXXX_YY.png and nothing else. {_mend(split)}"
    )


def _check_drawers(path: Path, split: str, name: str, drawings: dict[int, str]) -> None:
    expected = set(range(1, DRAWINGS + 1))
    if set(drawings) == expected:
        return
    wrong = {"without": expected - set(drawings), "with": set(drawings) - expected}
    told = [f"{what} {', '.join(f'{n:02}' for n in sorted(which))}" for what, which in wrong.items() if which]
    raise InputError(
        f"{path}: {name} has {len(drawings)} drawings, {' and '.join(told)}; expected 01 to {DRAWINGS}. {_mend(split)}"
    )


def _content(archive: zipfile.ZipFile, member: str) -> bytes:
    info = archive.getinfo(member)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others cannot be unpacked within bounds
        raise zipfile.BadZipFile(f"{member} is compressed by the method {info.compress_type}; expected deflate")
    with archive.open(info) as file:
        raw = file.read(_MAX_BYTES + 1)  # to the end, where the CRC is compared
    if len(raw) > _MAX_BYTES:
        raise zipfile.BadZipFile(f"{member} unpacks to more than {_MAX_BYTES >> 20} MiB")
    return raw


def _ink(path: Path, split: str, member: str, raw: bytes) -> npt.NDArray[np.bool_]:
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            if image.size != (PIXELS, PIXELS):
                raise InputError(
                    f"{path}: {member} has {image.width} x {image.height} pixels; expected {PIXELS} x {PIXELS}. "
                    f"Smaller images are made by --size, from the archives as they are. {_mend(split)}"
                )
            if image.mode not in ("1", "L"):
                raise InputError(
                    f"{path}: {member} is an image of the mode {image.mode}; expected black and white. {_mend(split)}"
                )
            image.verify()  # every chunk's CRC, which loading passes over; an image is of no use after it
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            return np.asarray(image.convert("L")) < 128
    except InputError:
        raise
    except (*_IMAGE_DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: {member} is no PNG image, or a damaged one ({error}). {_mend(split)}") from error


def _mend(split: str) -> str:
    return f"Fetch the archive anew, or zip the folder images_{split} again, whole and by itself."
