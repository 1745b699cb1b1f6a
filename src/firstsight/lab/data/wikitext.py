"""WikiText-2 and WikiText-103 (Merity et al. 2016), word level, as they are distributed.

Tokens stand between blanks; every line, blank ones too, ends with ``<eos>``. The vocabulary is every type of the
training split, the distributed ``<unk>`` among them, which is how the usual counts come about: 33,278 types for
WikiText-2 and 267,735 for WikiText-103, ``<eos>`` included.
"""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch

from firstsight.errors import InputError
from firstsight.lab.data.corpus import SPLITS, Corpus, file_source, write_corpus
from firstsight.lab.data.download import fetch
from firstsight.lab.data.lines import read_lines

EXPECTED = {
    "wikitext-2": {"train": 2_088_628, "valid": 217_646, "test": 245_569, "vocabulary": 33_278},
    "wikitext-103": {"train": 103_227_021, "valid": 217_646, "test": 245_569, "vocabulary": 267_735},
}
"""Tokens by split and types, ``<eos>`` included, of the corpora as distributed."""

_MIRRORS = ("https://wikitext.smerity.com", "https://s3.amazonaws.com/research.metamind.io/wikitext")
_SHA256 = {
    "wikitext-2": "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
    "wikitext-103": "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
}
_WANTED = ", ".join(f"wiki.{split}.tokens" for split in SPLITS)
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)


def prepare(
    source: str | Path | None, out: str | Path, variant: str = "wikitext-2", cache: str | Path | None = None
) -> Corpus:
    """Make a data folder of WikiText.

    Args:
        source: a .tar.xz, .tar.gz or .zip archive, or a folder, that holds ``wiki.{train,valid,test}.tokens`` at any
            depth. An archive is read as a stream; nothing is unpacked on the disk. ``None`` downloads the archive as it
            is distributed, and checks its SHA-256.
        variant: "wikitext-2" or "wikitext-103".
        cache: where a download is kept; by default with the user's other caches.

    Raises:
        InputError: no such variant or source; an archive that is empty, truncated, damaged or none at all; a split
            missing in it; text that is not UTF-8; numbers of tokens or types other than ``EXPECTED``; no mirror that
            gives the archive as it was.
    """
    if variant not in EXPECTED:
        raise InputError(f"The variant is {variant!r}; expected one of {', '.join(EXPECTED)}.")
    if source is not None and cache is not None:
        raise InputError(
            f"The cache {cache} is for downloads, and --from names a source already. Leave one of them out."
        )
    source = download(variant, cache) if source is None else Path(source)
    if not source.exists():
        raise InputError(f"{source}: there is no such file. Expected the {variant} archive, or its folder unpacked.")
    files = [_find(source, f"wiki.{split}.tokens") for split in SPLITS] if source.is_dir() else [source]
    return write_corpus(
        out,
        variant,
        {split: partial(_lines, source, f"wiki.{split}.tokens") for split in SPLITS},
        tokenizer="whitespace",
        sources=[file_source(path) for path in files],
        expected=EXPECTED[variant],
    )


def download(variant: str, cache: str | Path | None = None, mirrors: Sequence[str] = _MIRRORS) -> Path:
    """The distributed archive, from the cache or the first mirror that has it with its SHA-256."""
    name = f"{variant}-v1.zip"
    folder = Path(cache) if cache else Path(pooch.os_cache("firstsight"))
    return fetch([f"{mirror}/{name}" for mirror in mirrors], folder / name, sha256=_SHA256[variant])


def _lines(source: Path, member: str) -> Iterator[str]:
    try:
        with _open(source, member) as file:
            yield from read_lines(file, f"{source}: {member}")
    except _DAMAGE as error:
        raise InputError(
            f"{source}: this archive is damaged or was cut short ({error}). Expected a whole .tar.xz, .tar.gz or .zip: "
            "fetch it anew."
        ) from error


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise InputError(f"{folder}: there is no {name} in this folder. Expected {_WANTED}.")
    return found[0]


@contextmanager
def _open(source: Path, member: str) -> Iterator[IO[bytes]]:
    """One file of a folder or an archive, matched by its name without folders, to be read from the beginning."""
    if source.is_dir():
        with open(_find(source, member), "rb") as file:
            yield file
        return
    names = []
    with closing(_entries(source)) as entries:
        for name, opened in entries:
            names.append(name)
            if opened and PurePosixPath(name).name == member:
                with opened() as file:
                    yield file
                return
    inside = ", ".join(names[:5]) + (" and more" if len(names) > 5 else "") or "nothing"
    raise InputError(
        f"{source}: there is no {member} in this archive, which holds {inside}. Expected {_WANTED}: use the whole "
        "corpus, or fetch the archive anew if it was damaged on the way."
    )


def _entries(source: Path) -> Generator[tuple[str, Callable[[], Any] | None], None, None]:
    """The entries of an archive in their order: each one's path, and what opens it if it is a file."""
    with open(source, "rb") as probe:
        magic = probe.read(2)
    if not magic:
        raise InputError(f"{source}: this file is empty. Expected a .tar.xz, .tar.gz or .zip archive: fetch it anew.")
    if magic == b"PK":
        with zipfile.ZipFile(source) as packed:
            yield from ((name, partial(packed.open, name)) for name in packed.namelist())
        return
    try:
        archive = tarfile.open(source)  # noqa: SIM115 - closed below; only opening says that it is no archive
    except tarfile.ReadError as error:
        raise InputError(
            f"{source}: this is not an archive, or its beginning is damaged. Expected a .tar.xz, .tar.gz or .zip that "
            f"holds {_WANTED}: fetch it anew."
        ) from error
    with archive:
        for entry in archive:
            yield entry.name, partial(archive.extractfile, entry) if entry.isfile() else None
