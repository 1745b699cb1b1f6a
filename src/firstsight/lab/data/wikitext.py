"""WikiText-2 and WikiText-103 (Merity et al. 2016), word level, as they are distributed.

Tokens stand between blanks; every line, blank ones too, ends with ``<eos>``. The vocabulary is every type of the
training split, the distributed ``<unk>`` among them, which is how the usual counts come about: 33,278 types for
WikiText-2 and 267,735 for WikiText-103, ``<eos>`` included.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import pooch

from firstsight.errors import InputError
from firstsight.lab.data.archives import entries, list_entries, named
from firstsight.lab.data.corpus import SPLITS, Corpus, file_source, write_corpus
from firstsight.lab.data.download import fetch
from firstsight.lab.data.lines import printable, read_lines
from firstsight.lab.system.files import regular_file

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
_MOST_PACKED = {"wikitext-2": 8 << 20, "wikitext-103": 256 << 20}  # the archives have 4 and 181 MiB
_WANTED = ", ".join(f"wiki.{split}.tokens" for split in SPLITS)
_KINDS = ".tar.xz, .tar.gz or .zip"
_MOST_BYTES = 6  # of a token, over a split; those of both corpora have 5.1 to 5.3
_MOST_UNPACKED = 1 << 31  # WikiText-103 has half a GiB; who packs it together with its raw twin has a whole one


def prepare(
    source: str | Path | None, out: str | Path, variant: str = "wikitext-2", cache: str | Path | None = None
) -> Corpus:
    """Make a data folder of WikiText.

    Args:
        source: a .tar.xz, .tar.gz or .zip archive, or a folder, that holds ``wiki.{train,valid,test}.tokens`` at any
            depth. An archive is read as a stream; nothing is unpacked on the disk. It is read to its end once before,
            so that its own checksums are heard. ``None`` downloads the archive as it is distributed, and checks its
            SHA-256.
        variant: "wikitext-2" or "wikitext-103".
        cache: where a download is kept; by default with the user's other caches.

    Raises:
        InputError: no such variant or source; an archive that is empty, truncated, damaged or none at all; a split
            missing in it, or much larger than its tokens can be; text that is not UTF-8; numbers of tokens or types
            other than ``EXPECTED``; no mirror that gives the archive as it was.
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
    members = {split: f"wiki.{split}.tokens" for split in SPLITS}
    files = [_find(source, name) for name in members.values()] if source.is_dir() else [source]
    _check_sizes(source, variant, members)
    return write_corpus(
        out,
        variant,
        {split: partial(_lines, source, name) for split, name in members.items()},
        tokenizer="whitespace",
        sources=[file_source(path) for path in files],
        expected=EXPECTED[variant],
    )


def download(variant: str, cache: str | Path | None = None, mirrors: Sequence[str] = _MIRRORS) -> Path:
    """The distributed archive, from the cache or the first mirror that has it with its SHA-256."""
    name = f"{variant}-v1.zip"
    folder = Path(cache) if cache else Path(pooch.os_cache("firstsight"))
    urls = [f"{mirror}/{name}" for mirror in mirrors]
    return fetch(urls, folder / name, sha256=_SHA256[variant], most=_MOST_PACKED[variant])


def _check_sizes(source: Path, variant: str, members: dict[str, str]) -> None:
    """Refuse another corpus by what its files weigh, before minutes go by; reads an archive to its end."""
    if source.is_dir():
        sizes = {name: _find(source, name).stat().st_size for name in members.values()}
    else:
        listed = list_entries(source, _MOST_UNPACKED)
        sizes = {name: size for path, size, _ in reversed(listed) if (name := PurePosixPath(path).name)}
    for split, name in members.items():
        tokens = EXPECTED[variant][split]
        if sizes.get(name, 0) > _MOST_BYTES * tokens:
            raise InputError(
                f"{source}: {name} has {sizes[name]:,} bytes, and the {tokens:,} tokens of the {split} split of "
                f"{variant} have {_MOST_BYTES * tokens:,} at the most: this is not the corpus as it is distributed. "
                "Fetch it anew, or use firstsight data text for your own text."
            )


def _lines(source: Path, member: str) -> Iterator[str]:
    with named(source, _KINDS), _open(source, member) as file:
        yield from read_lines(file, f"{source}: {member}", lone_cr=False)


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise InputError(f"{folder}: there is no {name} in this folder. Expected {_WANTED}.")
    if len(found) > 1:
        raise InputError(f"{folder}: {name} is there {len(found)} times, {found[0]} and {found[1]}. Give one's folder.")
    return regular_file(found[0], "the tokens of a split")


@contextmanager
def _open(source: Path, member: str) -> Iterator[IO[bytes]]:
    """One file of a folder or an archive, matched by its name without folders, to be read from the beginning."""
    if source.is_dir():
        with open(_find(source, member), "rb") as file:
            yield file
        return
    names = []
    with closing(entries(source)) as stream:
        for entry in stream:
            names.append(printable(entry.name))
            if entry.kind == "file" and PurePosixPath(entry.name).name == member:
                with entry.open() as file:
                    yield file
                return
    inside = ", ".join(names[:5]) + (" and more" if len(names) > 5 else "") or "nothing"
    raise InputError(
        f"{source}: there is no {member} in this archive, which holds {inside}. Expected {_WANTED}: use the whole "
        "corpus, or fetch the archive anew if it was damaged on the way."
    )
