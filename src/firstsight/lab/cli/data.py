"""``firstsight data``: turn a corpus into a data folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, arg, subcommand

from firstsight.lab.cli.folders import Audit, Info, audit, info, print_omniglot
from firstsight.lab.cli.output import Found, Json, MaybePath, console, new_table, show, tell
from firstsight.lab.system.folder import DATA, hold
from firstsight.lab.system.progress import say

Source = Annotated[Path, arg(name="from", metavar="PATH")]
Out = Annotated[Path, arg(help="data folder to write")]
MinCount = Annotated[
    int, arg(help="words with fewer training occurrences become <unk>; 1 keeps everything that occurs")
]
MaxSize = Annotated[int | None, arg(metavar="INT", help="the most types in the vocabulary; the rarest become <unk>")]
Workers = Annotated[
    int | None, arg(metavar="INT", help="processes; by default one a core. The result does not depend on it")
]


@dataclass(frozen=True)
class Stdlib:
    """The corpus inside Python: docstrings of the standard library. Needs no network.

    Example: firstsight data stdlib --out data/stdlib
    """

    out: Out
    json: Json = False


@dataclass(frozen=True)
class Text:
    """Your own plain text, a UTF-8 file or a folder of .txt files.

    Example: firstsight data text --from novels/ --out data/novels
    """

    source: Source
    """a file; a folder with train.txt, valid.txt (or val.txt, dev.txt) and test.txt; or a folder of .txt files, cut
    90/5/5 by lines"""
    out: Out
    min_count: int = 2
    """words with fewer training occurrences become <unk>"""
    max_size: MaxSize = None
    tokenizer: Literal["words", "whitespace"] = "words"
    lower: bool = False
    """lower case"""
    json: Json = False


@dataclass(frozen=True)
class WikiText2:
    """WikiText-2, downloaded, or from its archive (.zip, .tar.*) or the folder with wiki.train.tokens and so on.

    Example: firstsight data wikitext-2 --from wikitext-2-v1.zip --out data/wikitext-2
    """

    out: Out
    source: Annotated[Path | None, arg(name="from", metavar="PATH")] = None
    """the archive or the folder; without it the archive is downloaded and its SHA-256 checked"""
    cache: MaybePath = None
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
    out: Out
    books: str = "listed"
    """listed: those the appendix names; all: these, and every English book under /1 for training; or the number of
    training books to take"""
    robust: bool = False
    """read markers and encodings as they are meant, not as the paper's script does"""
    min_count: MinCount = 1
    max_size: MaxSize = None
    workers: Workers = None
    cache: MaybePath = None
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
    out: Out
    train_years: str = "2000-2009"
    """years of the articles that train"""
    valid_years: str = "1999"
    """years of the articles that validate"""
    test_years: str = "2010"
    """years of the articles that test"""
    types: tuple[Literal["story", "multi", "advis", "other"], ...] = ("story",)
    """kinds of documents to take"""
    headlines: bool = False
    """take headlines too; else the body alone"""
    min_count: MinCount = 1
    max_size: MaxSize = None
    workers: Workers = None
    json: Json = False


@dataclass(frozen=True)
class Omniglot:
    """Omniglot, downloaded, or from its two archives: 1,623 classes of 20 drawings as one array of small images.

    Example: firstsight data omniglot --out data/omniglot

    Example: firstsight data omniglot --from omniglot/python --out data/omniglot --size 32
    """

    out: Out
    source: Annotated[Path | None, arg(name="from", metavar="FOLDER")] = None
    """the folder with images_background.zip and images_evaluation.zip; without it both are downloaded and checked"""
    size: int = 28
    """pixels of an image each way, 8 to 105, averaged over the area of the 105 x 105 drawn"""
    cache: MaybePath = None
    """folder for the downloads"""
    json: Json = False


Corpora = (
    Annotated[Stdlib, subcommand("stdlib")]
    | Annotated[Text, subcommand("text")]
    | Annotated[WikiText2, subcommand("wikitext-2")]
    | Annotated[WikiText103, subcommand("wikitext-103")]
    | Annotated[Gutenberg, subcommand("gutenberg")]
    | Annotated[GigaWord, subcommand("gigaword")]
    | Annotated[Omniglot, subcommand("omniglot")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Audit, subcommand("audit")]
)


def data(command: OmitSubcommandPrefixes[OmitArgPrefixes[Corpora]]) -> int:
    """Turn a corpus into a data folder (vocabulary, token files, checksums), describe it, or audit it."""
    if isinstance(command, Info):
        return info(command)
    if isinstance(command, Audit):
        return audit(command)
    with hold(command.out, DATA):
        return _made(command)


def _made(command: Any) -> int:
    say(f"preparing {command.out}")
    if isinstance(command, Omniglot):
        from firstsight.lab.data import omniglot

        made = omniglot.prepare(command.source, command.out, command.size, command.cache)
        return show(omniglot.summary(made), command.json, print_omniglot)
    from firstsight.lab.data import summary

    return show(summary(_prepare(command)), command.json, _print_corpus)


def _prepare(command: Any) -> Any:
    from firstsight.lab.data import gigaword, gutenberg, stdlib, text, wikitext

    options = {name: value for name, value in vars(command).items() if name not in ("source", "out", "json")}
    if isinstance(command, Stdlib):
        return stdlib.prepare(command.out)
    if isinstance(command, WikiText2):
        variant = "wikitext-103" if isinstance(command, WikiText103) else "wikitext-2"
        return wikitext.prepare(command.source, command.out, variant, **options)
    if isinstance(command, GigaWord):
        years = {split: options.pop(f"{split}_years") for split in ("train", "valid", "test")}
        return gigaword.prepare(command.source, command.out, years=years, **options)
    corpus = gutenberg if isinstance(command, Gutenberg) else text
    return corpus.prepare(command.source, command.out, **options)


def _print_corpus(found: Found) -> None:
    title = f"{found['corpus']}: {found['vocabulary']:,} types"
    table = new_table(title, ("split", "tokens", "unknown"), left=("split",))
    for split, tokens in found["tokens"].items():
        unknown = found["unknown"].get(split)
        table.add_row(split, f"{tokens:,}", "" if unknown is None else f"{unknown:.2%}")
    console.print(table)
    if found["tokens"]["train"]:
        tell(f"Next: firstsight train {found['folder']} --out runs/first")
