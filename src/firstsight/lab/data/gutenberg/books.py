"""From a mirror of Project Gutenberg to a data folder (section A.3 of the paper)."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data import punkt
from firstsight.lab.data.corpus import SPLITS, Corpus
from firstsight.lab.data.gutenberg.book_ids import PAPER_TOKENS, TEST, TRAIN, VALID
from firstsight.lab.data.gutenberg.mirror import open_source
from firstsight.lab.data.gutenberg.robust import damage, robust_text
from firstsight.lab.data.gutenberg.script import process_text, tokenized
from firstsight.lab.data.gutenberg.source import Found, Source
from firstsight.lab.data.pool import make_shards
from firstsight.lab.data.shards import Add, Item, Shards, join_shards
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.system.progress import say
from firstsight.lab.system.shape import shown

TOKENIZER = "nltk-lower"
_LANGUAGE = re.compile(rb"^language: *([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    books: str = "listed",
    robust: bool = False,
    min_count: int = 1,
    max_size: int | None = None,
    workers: int | None = None,
    cache: str | Path | None = None,
) -> Corpus:
    """Make a data folder of the paper's books. Killed, the same call goes on where it was.

    The splits are those of section A.3.1. Of the 2,017 training books the appendix names 969, the others are lost.
    Books that no source has are listed in meta.json, as are those that the paper's script damages.

    Args:
        sources: one or several mirrors (URLs, folders or archives of a mirror's layout); a book is taken from the first
            that has it.
        books: "listed": those named in the appendix. "all": these, and every other English book under ``/1`` of the
            sources for training ("2042 English-language books under the /1 subdirectory" is all that the paper says
            of its choice). A number: validation, test, and so many training books, the first of the list that the
            sources have.
        robust: read markers and encodings as they are meant instead of by the paper's script.
        min_count: see ``Vocabulary.build``, as for ``max_size``.
        workers: processes; by default one a core. The result does not depend on it.
        cache: where downloads are kept.

    Raises:
        InputError: bad arguments or sources, none of the books in them, no sentence model for NLTK, too little memory.
    """
    limit = _limit(books)
    Vocabulary.build({}, tokenizer=TOKENIZER, min_count=min_count, max_size=max_size)  # refuses bad limits in time
    model = punkt.versions()
    places = [str(place) for place in ([sources] if isinstance(sources, str | Path) else sources)]
    opened = [open_source(place, Path(cache) if cache else None) for place in places]
    if cache is not None and not any(source.remote for source in opened):
        raise InputError(
            f"The cache {cache} is for downloads, and none of the sources is an address. Leave --cache out."
        )
    wanted = _wanted(opened, books)
    out = Path(out)
    made = [model["nltk"], model["punkt_tab"], "robust" if robust else "script"]
    given: dict[str, dict[str, Any]] = {}

    def items() -> Iterator[Item]:
        for found in _read(opened, wanted, limit):
            split = wanted[found.book]
            if books == "all" and split == "train" and not _english(found.raw):
                continue
            key, digest = str(found.book), hashlib.sha256(found.raw).hexdigest()
            about = {"split": split, "bytes": len(found.raw), "sha256": digest, "source": found.source}
            given[key] = {"name": found.name, **about}
            work = partial(process_book, found.raw, found.book, split, robust)
            yield Item(key, len(found.raw), "\n".join([digest, split, *made]), work)

    done = set(make_shards(out / ".shards", items(), _total(opened, wanted, limit), workers))
    if not done:
        raise InputError(
            f"{', '.join(places)}: none of the books is there. Expected 1/0/2/6/10268/10268.txt and so on."
        )
    order = [str(book) for book in wanted if str(book) in done]
    shards = Shards(out / ".shards", order)
    described = {
        "sources": [given[key] for key in order],
        "books": books,
        "missing": {name: [b for b in wanted if wanted[b] == name and str(b) not in done] for name in SPLITS},
        "unreadable": {
            str(book): f"{source.name}: {why}"
            for source in opened
            for book, why in source.damaged.items()
            if str(book) not in done
        },
        "mode": made[-1],
        "damaged": {key: found for key, found in shards.reports().items() if found},
        "paper_tokens": PAPER_TOKENS,
        **model,
    }
    if limit is not None:  # which of the list they are is not asked for
        described["missing"]["train"] = []
        taken = sum(given[key]["split"] == "train" for key in order)
        if taken < limit:
            say(f"{limit} training books were asked for, and the given mirrors have {taken} of the list")
    _report(described, robust)
    return join_shards(out, "gutenberg", shards, described, tokenizer=TOKENIZER, min_count=min_count, max_size=max_size)


def process_book(raw: bytes, book: int, split: str, robust: bool, add: Add) -> dict[str, Any]:
    """Give a book's lines to a shard; returns what the paper's script damages in it."""
    text = (tokenized(robust_text(raw)) if robust else process_text(raw)).decode()
    add(split, str(book), (line.split() for line in text.split("\n")[:-1]))
    return damage(raw)


def _limit(books: str) -> int | None:
    if books in ("all", "listed"):
        return None
    if not books.isdecimal() or int(books) < 1:
        raise InputError(f"books is {shown(books)}; expected all, listed, or a number of training books, 1 or more.")
    return int(books)


def _wanted(sources: Sequence[Source], books: str) -> dict[int, str]:
    """The split of every book, in the order of the corpus."""
    wanted = dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
    train = list(TRAIN)
    if books == "all":
        train = sorted({*TRAIN, *(book for source in sources for book in source.books())} - set(wanted))
    return wanted | dict.fromkeys(train, "train")


def _read(sources: Sequence[Source], wanted: dict[int, str], limit: int | None) -> Iterator[Found]:
    """Each wanted book once, from the first source that has it; of training books no more than ``limit``."""
    left = dict(wanted)
    for source in sources:
        train = [book for book, split in left.items() if split == "train" and limit != 0]
        if limit is not None and not source.remote:  # reads in an order of its own: choose beforehand
            have = set(source.books())
            train = [book for book in train if book in have][:limit]
        for found in source.read([book for book, split in left.items() if split != "train"] + train):
            del left[found.book]
            yield found
            if limit is not None and wanted[found.book] == "train":
                limit -= 1
                if limit == 0 and source.remote:  # which reads in the order asked for: the other splits are through
                    break


def _total(sources: Sequence[Source], wanted: dict[int, str], limit: int | None) -> int | None:
    """Bytes that there are to read, for the progress bar; ``None`` where only requests would tell."""
    if any(source.remote for source in sources):
        return None
    sizes: dict[str, list[int]] = {split: [] for split in SPLITS}
    for book, split in wanted.items():
        known = [size for source in sources if (size := source.size(book)) is not None]
        sizes[split] += known[:1]
    return sum(sizes["train"][:limit]) + sum(sizes["valid"]) + sum(sizes["test"])


def _english(raw: bytes) -> bool:
    """By the file's own header; old files without such a line are English."""
    language = _LANGUAGE.search(raw[:20_000])
    return language is None or b"english" in language[1].lower()


def _report(described: dict[str, Any], robust: bool) -> None:
    missing = {split: books for split, books in described["missing"].items() if books}
    if missing:
        what = ", ".join(f"{len(books)} of {split}" for split, books in missing.items())
        say(f"not on the given mirrors: {what} (meta.json lists them)")
    for book, why in described["unreadable"].items():
        say(f"book {book} cannot be read and is left out: {why}")
    damaged = described["damaged"]
    if damaged and not robust:
        marker = sum("no_start" in found or "no_end" in found for found in damaged.values())
        dropped = sum("dropped_bytes" in found for found in damaged.values())
        say(
            f"the paper's script damages books: {marker} lack a marker, so their licence stays in; {dropped} lose "
            "letters that are not UTF-8 (meta.json lists both; --robust reads them as they are meant)"
        )
