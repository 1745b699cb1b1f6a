"""From the files of English GigaWord v5 (LDC2011T07) to a data folder (section A.4 of the paper)."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data import punkt
from firstsight.lab.data.corpus import SPLITS, Corpus, file_source
from firstsight.lab.data.gigaword.document import Tally
from firstsight.lab.data.gigaword.reader import read_documents
from firstsight.lab.data.lines import say_unread
from firstsight.lab.data.pool import make_shards
from firstsight.lab.data.shards import Add, Item, Shards, join_shards
from firstsight.lab.data.tokenize import tokenize_lines
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.system.progress import say
from firstsight.lab.system.shape import shown

TOKENIZER = "nltk-lower"
TYPES = ("story", "multi", "advis", "other")
YEARS = {"train": "2000-2009", "valid": "1999", "test": "2010"}
_FILE = re.compile(r"([a-z]{3}_[a-z]{3})_(\d{6})(\.gz)?", re.IGNORECASE)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    years: dict[str, str] | None = None,
    types: Sequence[str] = ("story",),
    headlines: bool = False,
    min_count: int = 1,
    max_size: int | None = None,
    workers: int | None = None,
) -> Corpus:
    """Make a data folder of GigaWord, every article a document. Killed, the same call goes on where it was.

    As in the paper, training is 2000 to 2009 and test 2010, by the articles' own dates, and text goes through the
    script of section A.3.2 without its Gutenberg markers. Our decisions where the paper says nothing: stories only,
    and their body text only; each article is cut into sentences by itself; validation is 1999, the year on training's
    other side, so that neither training nor test loses an article.

    Args:
        source: the folder with ``data/nyt_eng/nyt_eng_199407.gz`` and so on, at any depth; unpacked files will do.
        years: other years of "train", "valid" and "test": "2010", "2000-2009".
        types: kinds of documents to take.
        headlines: take each headline too, as a sentence or several before the body's.
        min_count: see ``Vocabulary.build``, as for ``max_size``.
        workers: processes; by default one a core. The result does not depend on it.

    Raises:
        InputError: bad arguments, no file of GigaWord in ``source``, no document of these years and types, no sentence
            model for NLTK, too little memory.
    """
    spans = _spans({**YEARS, **(years or {})})
    if not types or not set(types) <= set(TYPES):
        raise InputError(f"types are {', '.join(types) or 'none'}; expected some of {', '.join(TYPES)}.")
    files = _files(Path(source), spans)
    Vocabulary.build({}, tokenizer=TOKENIZER, min_count=min_count, max_size=max_size)  # refuses bad limits in time
    model = punkt.versions()
    made = [str(spans), *sorted(types), str(headlines), *model.values()]
    items = [_item(path, spans, tuple(types), headlines, made) for path in files]
    out = Path(out)
    keys = make_shards(out / ".shards", items, sum(item.size for item in items), workers)
    shards = Shards(out / ".shards", keys)
    reports = shards.reports()
    tally = sum((Tally.from_dict(report["tally"]) for report in reports.values()), Tally())
    found = shards.document_counts()
    if not any(found.values()):
        raise InputError(f"{source}: no document of type {', '.join(types)} is of {spans}. {_summary(tally)}")
    for split in SPLITS:
        if not found[split]:
            say(f"warning: the {split} split is empty: no document is of {spans[split]}; set --{split}-years")
    say(_summary(tally))
    described = {
        "sources": [report["source"] for report in reports.values()],
        "years": {split: list(span) for split, span in spans.items()},
        "document_types": list(types),
        "headlines": headlines,
        "tally": tally.as_dict(),
        **model,
    }
    return join_shards(out, "gigaword", shards, described, tokenizer=TOKENIZER, min_count=min_count, max_size=max_size)


def process_file(
    path: Path, spans: dict[str, tuple[int, int]], types: tuple[str, ...], headlines: bool, add: Add
) -> dict[str, Any]:
    """Give a file's articles to a shard; returns what was found in it."""
    tally = Tally()
    for document in read_documents(path, tally):
        split = _split_of(document.year, spans)
        if split and document.type in types:
            parts = [document.headline] if headlines and document.headline else []
            lines = [line for part in [*parts, document.text] for line in tokenize_lines(part.split("\n"), TOKENIZER)]
            add(split, document.id, lines)
    return {"source": file_source(path), "tally": tally.as_dict()}


def _item(
    path: Path, spans: dict[str, tuple[int, int]], types: tuple[str, ...], headlines: bool, made: list[str]
) -> Item:
    status = path.stat()
    fingerprint = "\n".join([str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), *made])
    work = partial(process_file, path, spans, types, headlines)
    return Item(path.name.removesuffix(".gz").lower(), status.st_size, fingerprint, work)


def _files(source: Path, spans: dict[str, tuple[int, int]]) -> list[Path]:
    """The files whose months can hold a document of these years, by month, then by newspaper."""
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder. Expected the data folder of LDC2011T07.")
    named: dict[tuple[str, str], Path] = {}
    others: list[Path] = []
    for path in sorted(source.rglob("*")):
        if (match := _FILE.fullmatch(path.name)) and path.is_file():
            key = (match[2], match[1].lower())
            if key in named:
                raise InputError(f"{source}: {path} and {named[key]} are the same month twice. Remove one of them.")
            named[key] = path
        elif match or not path.is_dir() or path.is_symlink():
            others.append(path)
    if not named:
        raise InputError(
            f"{source}: no file of GigaWord is in this folder. Expected data/nyt_eng/nyt_eng_199407.gz etc."
        )
    say_unread(source, others, "only files named like nyt_eng_199407.gz are")
    inside = [path for (month, _), path in sorted(named.items()) if _split_of(int(month[:4]), spans)]
    if not inside:
        raise InputError(f"{source}: of its {len(named)} files none is of {spans}. Give other years.")
    return inside


def _split_of(year: int, spans: dict[str, tuple[int, int]]) -> str | None:
    return next((split for split, (first, last) in spans.items() if first <= year <= last), None)


def _spans(years: dict[str, str]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    if unknown := sorted(set(years) - set(SPLITS)):
        raise InputError(f"years are given for {', '.join(unknown)}; expected {', '.join(SPLITS)}.")
    for split, text in years.items():
        match = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", text)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise InputError(f"{split}-years is {shown(text)}; expected a year, like 2010, or a span, like 2000-2009.")
        for other, (start, end) in spans.items():
            if first <= end and start <= last:
                raise InputError(f"{split}-years {text} and {other}-years {start}-{end} overlap: a split would leak.")
        spans[split] = (first, last)
    return spans


def _summary(tally: Tally) -> str:
    damaged = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.damaged.items())) or "none"
    files = ", ".join(f"{name} ({reason})" for name, reason in tally.files) or "none"
    return (
        f"{tally.documents:,} documents read; {tally.duplicates:,} with an id seen before, {tally.undecodable:,} with "
        f"bytes that are not UTF-8 (dropped); damaged and left out: {damaged}; damaged files: {files}"
    )
