"""``firstsight data info`` and ``data audit``: what a data folder holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from firstsight.errors import InputError
from firstsight.lab.cli.output import Found, Json, MaybeFloat, MaybePath, console, new_table, show, tell


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
    clean: MaybePath = None
    """write a data folder here whose training split lacks the documents that hold evaluation text"""
    max_share: MaybeFloat = None
    """with --clean: the share of an evaluation document that a training document may hold and stay; by default 0.01"""
    json: Json = False


def info(command: Info) -> int:
    """Describe a data folder, and draw its Zipf plot into ``folder/plots/zipf.png``."""
    from firstsight.lab.data.omniglot import holds_omniglot, open_omniglot
    from firstsight.lab.data.omniglot import summary as describe_omniglot

    if holds_omniglot(command.folder):
        return show(describe_omniglot(open_omniglot(command.folder)), command.json, print_omniglot)
    from firstsight.lab.data import open_corpus
    from firstsight.lab.data.info import describe_corpus
    from firstsight.lab.report.zipf import zipf_plot
    from firstsight.lab.system.folder import DATA, hold

    found, plot = describe_corpus(command.folder), None
    corpus = open_corpus(command.folder)
    if corpus.vocabulary.counts.any():
        drawn = zipf_plot(corpus.name, corpus.vocabulary.tokens, corpus.vocabulary.counts, found["unknown"])
        with hold(corpus.folder, DATA):
            plot = str(drawn.save(corpus.folder / "plots"))
    return show({**found, "plot": plot}, command.json, _print_info)


def audit(command: Audit) -> int:
    """Audit a data folder, and write it anew without what was found, if asked."""
    from firstsight.lab.data.audit import MAX_SHARE, audit_corpus, clean_corpus

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
    return show(found, command.json, _print_audit)


def print_omniglot(found: Found) -> None:
    """The drawings that ``firstsight data omniglot`` made, or that a folder holds."""
    size, of_a_class = found["size"], sum(found["drawings_per_class"].values())
    classes = sum(found["classes"].values())
    title = f"omniglot: {classes:,} classes of {of_a_class}, {size} x {size} pixels"
    table = new_table(title, ("split", "alphabets", "classes", "drawings"), left=("split",))
    for split, number in found["classes"].items():
        table.add_row(split, f"{found['alphabets'][split]:,}", f"{number:,}", f"{number * of_a_class:,}")
    console.print(table)
    test, train = (found["drawings_per_class"][split] for split in ("test", "train"))
    tell(f"{found['folder']}: of each class the first {test} drawings test, the other {train} train")
    for source in found["sources"]:
        kind = "the official archive" if source["official"] else "not the official archive; its content was checked"
        tell(f"from {source['name']}, {kind}")


def _print_info(found: Found) -> None:
    papers = ("in the paper", "difference") if found["paper"] else ()
    names = ("split", "documents", "tokens", *papers, "unknown")
    table = new_table(f"{found['corpus']}: {found['vocabulary']:,} types", names, left=("split",))
    for split, tokens in found["tokens"].items():
        documents, unknown = found["documents"].get(split), found["unknown"].get(split)
        paper = (found["paper"] or {}).get(split, {}).get("paper")
        beside = (f"{paper:,}" if paper else "", f"{tokens / paper - 1:+.2%}" if paper and tokens else "")
        table.add_row(
            split,
            "" if documents is None else f"{documents:,}",
            f"{tokens:,}",
            *(beside if papers else ()),
            "" if unknown is None else f"{unknown:.2%}",
        )
    console.print(table)
    if found["plot"]:
        once = found["singletons"]
        tell(f"{once['types']:,} types ({once['share']:.1%}) occur once in training")
    for split, books in found["by_document"].items():
        text = ", ".join(f"{name} {tokens:,}" for name, tokens in books.items())
        tell(f"{split}, tokens of each document: {text}")
    for name, value in found["provenance"].items():
        shown = f"{found['provenance']['sources_total']:,} in meta.json" if name == "sources" else _short(value)
        if shown and name != "sources_total":
            tell(f"{name.replace('_', ' ')}: {shown}")
    for note in found["notes"]:
        tell(note)
    if found["plot"]:
        tell(f"Zipf plot: {found['plot']}")


def _short(value: Any) -> str:
    """A value of meta.json in one line: what is long by its length."""
    if isinstance(value, dict) and not any(isinstance(inner, dict) for inner in value.values()):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items() if inner not in (None, [], {}, 0))
    if isinstance(value, dict | list):
        plain = len(value) < 5 and all(isinstance(inner, int | str) for inner in value)
        return ", ".join(map(str, value)) if plain else f"{len(value):,} in meta.json"
    return "" if value is None else str(value)


def _print_audit(found: Found) -> None:
    for split, totals in found["splits"].items():
        tell(f"{split}: {totals['share']:.2%} of its runs of {found['n']} words also stand in training")
    shown = found["pairs"][:20]
    title = f"{found['pairs_found']:,} pairs share at least {found['min_share']:.1%} of the evaluation document"
    left = ("evaluation", "also in", "begins")
    table = new_table(title, ("evaluation", "also in", "share", "longest", "begins"), left)
    for pair in shown:
        evaluation, other = f"{pair['split']} {pair['evaluation']}", f"{pair['found_in']} {pair['training']}"
        table.add_row(evaluation, other, f"{pair['share']:.2%}", f"{pair['longest']} words", pair["excerpt"][:60])
    console.print(table)
    if cleaned := found.get("cleaned"):
        names = ", ".join(dropped["name"] for dropped in cleaned["dropped"][:20]) or "none"
        tell(f"{cleaned['folder']}: left out of training: {names}")
    elif shown:
        tell("Next: the same command with --clean DIR writes a corpus without them")
