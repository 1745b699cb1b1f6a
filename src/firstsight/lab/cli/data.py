"""The part of the command line that makes, describes and checks data folders."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg

from firstsight.errors import InputError
from firstsight.lab.cli import screen
from firstsight.lab.system.progress import say

Source = Annotated[Path, arg(name="from", metavar="PATH")]
Json = Annotated[bool, arg(help="print one JSON object on standard output and nothing else there")]
DocumentType = Literal["story", "multi", "advis", "other"]


@dataclass(frozen=True)
class Stdlib:
    """The corpus inside Python: docstrings of the standard library. Needs no network.

    Example: firstsight data stdlib --out data/stdlib
    """

    out: Path
    """data folder to write"""
    json: Json = False


@dataclass(frozen=True)
class Text:
    """Your own plain text, a UTF-8 file or a folder of .txt files.

    Example: firstsight data text --from novels/ --out data/novels
    """

    source: Source
    """a file; a folder with train.txt, valid.txt and test.txt; or a folder of .txt files, cut 90/5/5 by lines"""
    out: Path
    """data folder to write"""
    min_count: int = 2
    """words with fewer training occurrences become <unk>"""
    max_size: int | None = None
    """the most types in the vocabulary; the rarest become <unk>"""
    tokenizer: Literal["words", "whitespace"] = "words"
    lower: bool = False
    """lower case"""
    json: Json = False


@dataclass(frozen=True)
class WikiText2:
    """WikiText-2, downloaded, or from its archive (.zip, .tar.*) or the folder with wiki.train.tokens and so on.

    Example: firstsight data wikitext-2 --from wikitext-2-v1.zip --out data/wikitext-2
    """

    out: Path
    """data folder to write"""
    source: Annotated[Path | None, arg(name="from", metavar="PATH")] = None
    """the archive or the folder; without it the archive is downloaded and its SHA-256 checked"""
    cache: Path | None = None
    """folder for the download"""
    json: Json = False


@dataclass(frozen=True)
class WikiText103(WikiText2):
    """WikiText-103, downloaded, or from its archive (.zip, .tar.*) or the folder with wiki.train.tokens and so on.

    Example: firstsight data wikitext-103 --from wikitext-103-v1.zip --out data/wikitext-103
    """


@dataclass(frozen=True)
class Gutenberg:
    """The books of the paper, from a mirror of Project Gutenberg, through the script of its appendix.

    Interrupted or killed, the same command goes on. The sentence model of NLTK is downloaded where NLTK_DATA has none.

    Example: firstsight data gutenberg --from https://gutenberg.pglaf.org --out data/gutenberg

    Example: firstsight data gutenberg --from mirror-valid.tar.xz mirror-train.tar.xz --out data/books --books 100
    """

    source: Annotated[tuple[str, ...], arg(name="from", metavar="URL|FOLDER|ARCHIVE")]
    """mirrors: addresses, folders or archives laid out as 1/0/2/6/10268/10268.txt; the first that has a book is used"""
    out: Path
    """data folder to write"""
    books: str = "listed"
    """listed: those the appendix names; all: these, and every English book under /1 for training; or the number of
    training books to take"""
    robust: bool = False
    """read markers and encodings as they are meant, not as the paper's script does"""
    min_count: int = 1
    """words with fewer training occurrences become <unk>; 1 keeps everything that occurs"""
    max_size: int | None = None
    """the most types in the vocabulary; the rarest become <unk>"""
    workers: int | None = None
    """processes; by default one a core. The result does not depend on it"""
    cache: Path | None = None
    """folder for downloads"""
    json: Json = False


@dataclass(frozen=True)
class GigaWord:
    """English GigaWord v5 (LDC2011T07): articles of 2000-2009 train, those of 2010 test, those of 1999 validate.

    Interrupted or killed, the same command goes on. The sentence model of NLTK is downloaded where NLTK_DATA has none.

    Example: firstsight data gigaword --from gigaword_eng_5/data --out data/gigaword --max-size 250000
    """

    source: Source
    """the folder with nyt_eng/nyt_eng_199407.gz and so on, at any depth"""
    out: Path
    """data folder to write"""
    train_years: str = "2000-2009"
    """years of the articles that train"""
    valid_years: str = "1999"
    """years of the articles that validate"""
    test_years: str = "2010"
    """years of the articles that test"""
    types: tuple[DocumentType, ...] = ("story",)
    """kinds of documents to take"""
    headlines: bool = False
    """take headlines too; else the body alone"""
    min_count: int = 1
    """words with fewer training occurrences become <unk>; 1 keeps everything that occurs"""
    max_size: int | None = None
    """the most types in the vocabulary; the rarest become <unk>"""
    workers: int | None = None
    """processes; by default one a core. The result does not depend on it"""
    json: Json = False


@dataclass(frozen=True)
class Omniglot:
    """Omniglot, downloaded, or from its two archives: 1,623 classes of 20 drawings as one array of small images.

    Example: firstsight data omniglot --out data/omniglot

    Example: firstsight data omniglot --from omniglot/python --out data/omniglot --size 32
    """

    out: Path
    """data folder to write"""
    source: Annotated[Path | None, arg(name="from", metavar="FOLDER")] = None
    """the folder with images_background.zip and images_evaluation.zip; without it both are downloaded and checked"""
    size: int = 28
    """pixels of an image each way, 8 to 105, averaged over the area of the 105 x 105 drawn"""
    cache: Path | None = None
    """folder for the downloads"""
    json: Json = False


@dataclass(frozen=True)
class Info:
    """Describe a data folder: counts, vocabulary, unknown words, where it comes from; draws its Zipf plot.

    Of Omniglot it tells the classes and drawings.

    Example: firstsight data info data/gutenberg
    """

    folder: Positional[Path]
    """data folder"""
    json: Json = False


@dataclass(frozen=True)
class Audit:
    """Find evaluation text that also stands in training text, by runs of 13 words; writes audit.json.

    Example: firstsight data audit data/gutenberg

    Example: firstsight data audit data/gutenberg --clean data/gutenberg-clean
    """

    folder: Positional[Path]
    """data folder"""
    words: int = 13
    """length of the runs of words that are compared"""
    clean: Path | None = None
    """write a data folder here whose training split lacks the documents that hold evaluation text"""
    max_share: float | None = None
    """with --clean: the share of an evaluation document that a training document may hold and stay; by default 0.01"""
    json: Json = False


Corpora = (
    Annotated[Stdlib, tyro.conf.subcommand("stdlib")]
    | Annotated[Text, tyro.conf.subcommand("text")]
    | Annotated[WikiText2, tyro.conf.subcommand("wikitext-2")]
    | Annotated[WikiText103, tyro.conf.subcommand("wikitext-103")]
    | Annotated[Gutenberg, tyro.conf.subcommand("gutenberg")]
    | Annotated[GigaWord, tyro.conf.subcommand("gigaword")]
    | Annotated[Omniglot, tyro.conf.subcommand("omniglot")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
)


def data(command: OmitSubcommandPrefixes[OmitArgPrefixes[Corpora]]) -> int:
    """Turn a corpus into a data folder (vocabulary, token files, checksums), describe it, or audit it."""
    if isinstance(command, Info):
        return _info(command)
    if isinstance(command, Audit):
        return _audit(command)
    say(f"preparing {command.out}")
    if isinstance(command, Omniglot):
        from firstsight.lab.data import omniglot

        made = omniglot.prepare(command.source, command.out, command.size, command.cache)
        return screen.show(omniglot.summary(made), command.json, screen.omniglot)
    from firstsight.lab.data import summary

    return screen.show(summary(_preparation(command)()), command.json, screen.corpus)


def _preparation(command: Any) -> Callable[[], Any]:
    from firstsight.lab.data import gigaword, gutenberg, stdlib, text, wikitext

    options = {name: value for name, value in vars(command).items() if name not in ("source", "out", "json")}
    if isinstance(command, Stdlib):
        return partial(stdlib.prepare, command.out)
    if isinstance(command, WikiText2):
        variant = "wikitext-103" if isinstance(command, WikiText103) else "wikitext-2"
        return partial(wikitext.prepare, command.source, command.out, variant, **options)
    if isinstance(command, GigaWord):
        years = {split: options.pop(f"{split}_years") for split in ("train", "valid", "test")}
        return partial(gigaword.prepare, command.source, command.out, years=years, **options)
    return partial(
        (gutenberg if isinstance(command, Gutenberg) else text).prepare, command.source, command.out, **options
    )


def _info(command: Info) -> int:
    from firstsight.lab.data.omniglot import holds_omniglot, open_omniglot
    from firstsight.lab.data.omniglot import summary as describe_omniglot

    if holds_omniglot(command.folder):
        return screen.show(describe_omniglot(open_omniglot(command.folder)), command.json, screen.omniglot)
    from firstsight.lab.data.info import describe_corpus

    return screen.show(describe_corpus(command.folder), command.json, screen.info)


def _audit(command: Audit) -> int:
    from firstsight.lab.data.audit.audit import audit_corpus
    from firstsight.lab.data.audit.cleaning import MAX_SHARE, clean_corpus

    if command.clean is None and command.max_share is not None:
        raise InputError(
            f"--max-share {command.max_share} decides what --clean leaves out. Name its folder: --clean DIR."
        )
    cleaned = None  # written first: what it refuses, it refuses before the audit
    if command.clean is not None:
        max_share = MAX_SHARE if command.max_share is None else command.max_share
        cleaned = clean_corpus(command.folder, command.clean, n=command.words, max_share=max_share)
    found = audit_corpus(command.folder, n=command.words)
    if cleaned is not None:
        found["cleaned"] = {"folder": str(cleaned.folder), **cleaned.meta["cleaned"]}
    return screen.show(found, command.json, screen.audit)
