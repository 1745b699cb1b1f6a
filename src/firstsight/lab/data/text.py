"""The user's own plain text."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from firstsight.errors import InputError
from firstsight.lab.data.corpus import SPLITS, Corpus, Lines, file_source, write_corpus
from firstsight.lab.data.lines import say_unread, text_lines
from firstsight.lab.data.vocabulary import UNK
from firstsight.lab.system.files import regular_file
from firstsight.lab.system.progress import say

NAMES = {"train": ("train",), "valid": ("valid", "val", "dev", "validation"), "test": ("test",)}
"""what the file of a split may be called, .txt behind it; large letters or small"""
SUFFIX = ".txt"
VALID_PERCENT = TEST_PERCENT = 5
MIN_LINES = 20  # below it 5 percent of the lines are none
MARKED = 1000  # lines of training that are looked at for a mark of unknown words
MOSTLY = 0.5  # share of a split that is unknown from which on something is likely to be wrong


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    min_count: int = 2,
    max_size: int | None = None,
    tokenizer: str = "words",
    lower: bool = False,
) -> Corpus:
    """Make a data folder of plain UTF-8 text. Blank lines are dropped, every other line ends with ``<eos>``.

    Args:
        source: a file, or a folder. A folder that holds train.txt, valid.txt (or val, dev, validation) and test.txt is
            taken as it is, and nothing else in it is read; one that holds some of them only is refused, since a test
            split would be trained on. Of any other folder, all \\*.txt (or .TXT) at any depth, in the order of their
            paths, are one text, cut like a file: the first 90 percent of the lines train, 5 validate, the last 5 test.
            Contiguous pieces, since lines next to each other share their words, and a test among them would be too
            easy. What else the folder holds is named and left out.
        min_count: words that training has fewer times become ``<unk>``: with 1 a model never learns what it is.
        max_size: see ``Vocabulary.build``.
        tokenizer: "words" or "whitespace", see ``firstsight.lab.data.tokenize``.
        lower: put everything in lower case.

    The text is never in memory as a whole; it is read several times over.

    Raises:
        InputError: no such source, no text in it, fewer than 20 lines that are not blank, bytes that are not UTF-8,
            a bad ``min_count`` or ``tokenizer``, or a folder with some of the three splits.
    """
    source = Path(source)
    files, splits = _files(source)
    splits = splits or _cut(source, files)
    if tokenizer == "words" and any(UNK in line for line in islice(splits["train"](), MARKED)):
        say(
            f"hint: {UNK} stands in this text, so it was tokenised before; as words that becomes three signs. "
            "--tokenizer whitespace takes it as it is"
        )
    corpus = write_corpus(
        out,
        "text",
        splits,
        tokenizer=tokenizer + "-lower" * lower,
        sources=[file_source(path, source if source.is_dir() else None) for path in files],
        min_count=min_count,
        max_size=max_size,
    )
    for split, share in corpus.meta["unknown"].items():
        if share > MOSTLY:
            say(
                f"warning: {share:.0%} of the {split} split are words that training does not have. Is it another "
                "language, or tokenised another way?"
            )
    return corpus


def _files(source: Path) -> tuple[list[Path], dict[str, Lines]]:
    """The files to read, and the splits where the folder names them."""
    if not source.is_dir():
        if not source.exists():
            raise InputError(
                f"{source}: there is no such file or folder. Expected plain text, or a folder of .txt files."
            )
        return [regular_file(source, "plain text")], {}
    texts, others = _walk(source)
    here = [path for path in texts if path.parent == source]
    found = {split: [path for path in here if path.stem.lower() in names] for split, names in NAMES.items()}
    if all(len(paths) == 1 for paths in found.values()):
        named = {split: found[split][0] for split in SPLITS}
        left = others + [path for path in texts if path not in named.values()]
        say_unread(source, left, "beside the three splits nothing is")
        for split, path in named.items():
            if not any(line.strip() for line in _lines([path])):
                raise InputError(f"{path}: this file holds no text, and the {split} split is made of it. Put some in.")
        return list(named.values()), {split: partial(_lines, [path]) for split, path in named.items()}
    if some := [path.name for paths in found.values() for path in paths]:
        raise InputError(
            f"{source}: it holds {', '.join(some)}. Expected train.txt, valid.txt (or val.txt, dev.txt) and test.txt, "
            "one of each, to be taken as they are; or none of these names, to be cut into three parts."
        )
    if not texts:
        raise InputError(f"{source}: there is no .txt file in this folder. Name your texts *.txt, or give one file.")
    say_unread(source, others, "only files *.txt are")
    return texts, {}


def _walk(source: Path) -> tuple[list[Path], list[Path]]:
    """All texts of a folder in the order of their paths, and whatever else lies in it; links to folders are not
    followed, since they can lead around in a circle."""

    def refuse(error: OSError) -> None:
        raise error

    texts: list[Path] = []
    others: list[Path] = []
    for folder, folders, names in os.walk(source, onerror=refuse):
        others += [path for name in folders if (path := Path(folder, name)).is_symlink()]
        for path in (Path(folder, name) for name in names):
            (texts if path.suffix.lower() == SUFFIX and path.is_file() else others).append(path)
    return sorted(texts), sorted(others)


def _lines(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        yield from (line for line in text_lines(path) if line.strip())


def _cut(source: Path, files: Sequence[Path]) -> dict[str, Lines]:
    total = sum(1 for _ in _lines(files))
    if total < MIN_LINES:
        raise InputError(
            f"{source}: {total} lines of text cannot be cut into 90, 5 and 5 percent; expected {MIN_LINES} or more. "
            "Put a line break after each sentence or paragraph, or give a folder of train.txt, valid.txt and test.txt."
        )
    valid, test = total * VALID_PERCENT // 100, total * TEST_PERCENT // 100
    train = total - valid - test
    bounds = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, total)}
    return {split: partial(_slice, files, *bound) for split, bound in bounds.items()}


def _slice(files: Sequence[Path], start: int, stop: int) -> Iterator[str]:
    return islice(_lines(files), start, stop)
