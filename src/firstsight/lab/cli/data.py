"""``firstsight data``: turn a corpus into a data folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, arg

from firstsight.lab.cli.folders import Audit, Info, audit, info, print_omniglot
from firstsight.lab.cli.output import Found, Json, console, show
from firstsight.lab.system.progress import say

Source = Annotated[Path, arg(name="from", metavar="PATH")]
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
        return info(command)
    if isinstance(command, Audit):
        return audit(command)
    say(f"preparing {command.out}")
    if isinstance(command, Omniglot):
        from firstsight.lab.data import omniglot

        made = omniglot.prepare(command.source, command.out, command.size, command.cache)
        return show(omniglot.summary(made), command.json, print_omniglot)
    from firstsight.lab.data import summary

    return show(summary(_preparation(command)()), command.json, _print_corpus)


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


def _print_corpus(found: Found) -> None:
    """What ``firstsight data`` made."""
    table = Table(title=f"{found['corpus']}: {found['vocabulary']:,} types", title_justify="left")
    table.add_column("split")
    table.add_column("tokens", justify="right")
    table.add_column("unknown", justify="right")
    for split, tokens in found["tokens"].items():
        unknown = found["unknown"].get(split)
        table.add_row(split, f"{tokens:,}", "" if unknown is None else f"{unknown:.2%}")
    console.print(table)
    if found["tokens"]["train"]:
        console.print(f"Next: firstsight train {found['folder']} --out runs/first", soft_wrap=True, markup=False)
