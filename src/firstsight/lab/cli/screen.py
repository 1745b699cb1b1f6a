"""What the commands print: one JSON object, or a few lines for a person."""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from firstsight.lab.system.progress import say

Found = dict[str, Any]
console = Console(highlight=False)


def show(found: Found, as_json: bool, printer: Callable[[Found], None]) -> int:
    """Print what a command found, and give the command's exit code."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        printer(found)
    sys.stdout.flush()  # here a reader that has gone, or a full disk, can still be answered
    reason = str(found.get("reason", found.get("interrupted", "")))
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


def fail(message: str, code: int) -> int:
    """Print one paragraph to standard error, and give the exit code."""
    print(f"firstsight: {message}", file=sys.stderr)
    return code


def corpus(found: Found) -> None:
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


def omniglot(found: Found) -> None:
    """The drawings that ``firstsight data omniglot`` made, or that a folder holds."""
    size, of_a_class = found["size"], sum(found["drawings_per_class"].values())
    classes = sum(found["classes"].values())
    title = f"omniglot: {classes:,} classes of {of_a_class}, {size} x {size} pixels"
    table = Table(title=title, title_justify="left")
    for name in ("split", "alphabets", "classes", "drawings"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, number in found["classes"].items():
        table.add_row(split, f"{found['alphabets'][split]:,}", f"{number:,}", f"{number * of_a_class:,}")
    console.print(table)
    shares = found["drawings_per_class"]
    console.print(
        f"{found['folder']}: of each class the first {shares['test']} drawings test, the other {shares['train']} train",
        soft_wrap=True,
        markup=False,
    )
    for source in found["sources"]:
        kind = "the official archive" if source["official"] else "not the official archive; its content was checked"
        console.print(f"from {source['name']}, {kind}", soft_wrap=True, markup=False)


def info(found: Found) -> None:
    """What a data folder holds."""
    table = Table(title=f"{found['corpus']}: {found['vocabulary']:,} types", title_justify="left")
    for name in ("split", "documents", "tokens", "in the paper", "difference", "unknown"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, tokens in found["tokens"].items():
        documents, unknown = found["documents"].get(split), found["unknown"].get(split)
        paper = (found["paper"] or {}).get(split, {}).get("paper")
        table.add_row(
            split,
            "" if documents is None else f"{documents:,}",
            f"{tokens:,}",
            f"{paper:,}" if paper else "",
            f"{tokens / paper - 1:+.2%}" if paper and tokens else "",
            "" if unknown is None else f"{unknown:.2%}",
        )
    console.print(table)
    if found["plot"]:
        once = found["singletons"]
        console.print(f"{once['types']:,} types ({once['share']:.1%}) occur once in training", soft_wrap=True)
    for split, books in found["by_document"].items():
        text = ", ".join(f"{name} {tokens:,}" for name, tokens in books.items())
        console.print(f"{split}, tokens of each document: {text}", soft_wrap=True, markup=False)
    for name, value in found["provenance"].items():
        shown = f"{found['provenance']['sources_total']:,} in meta.json" if name == "sources" else _short(value)
        if shown and name != "sources_total":
            console.print(f"{name.replace('_', ' ')}: {shown}", soft_wrap=True, markup=False)
    for note in [*found["notes"], *([f"Zipf plot: {found['plot']}"] if found["plot"] else [])]:
        console.print(note, soft_wrap=True, markup=False)


def _short(value: Any) -> str:
    """A value of meta.json in one line: what is long by its length."""
    if isinstance(value, dict) and not any(isinstance(inner, dict) for inner in value.values()):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items() if inner not in (None, [], {}, 0))
    if isinstance(value, dict | list):
        plain = len(value) < 5 and all(isinstance(inner, int | str) for inner in value)
        return ", ".join(map(str, value)) if plain else f"{len(value):,} in meta.json"
    return "" if value is None else str(value)


def audit(found: Found) -> None:
    """Evaluation text that also stands in training text."""
    for split, totals in found["splits"].items():
        share = totals["share"]
        console.print(f"{split}: {share:.2%} of its runs of {found['n']} words also stand in training", soft_wrap=True)
    shown = found["pairs"][:20]
    title = f"{found['pairs_found']:,} pairs share at least {found['min_share']:.1%} of the evaluation document"
    table = Table(title=title, title_justify="left")
    for name in ("evaluation", "also in", "share", "longest", "begins"):
        table.add_column(name, justify="right" if name in ("share", "longest") else "left")
    for pair in shown:
        evaluation, other = f"{pair['split']} {pair['evaluation']}", f"{pair['found_in']} {pair['training']}"
        table.add_row(evaluation, other, f"{pair['share']:.2%}", f"{pair['longest']} words", Text(pair["excerpt"][:60]))
    console.print(table)
    cleaned = found.get("cleaned")
    if cleaned:
        names = ", ".join(dropped["name"] for dropped in cleaned["dropped"][:20]) or "none"
        console.print(f"{cleaned['folder']}: left out of training: {names}", soft_wrap=True, markup=False)
    elif shown:
        console.print("Next: the same command with --clean DIR writes a corpus without them", soft_wrap=True)


def result(found: Found) -> None:
    """One evaluation."""
    from firstsight.lab.report import comparison_table

    if found["memory"]:
        from firstsight.lab.report.memory import memory_table, told

        console.print(memory_table(found))
        console.print(told(found["memory"]), soft_wrap=True, markup=False)
    else:
        console.print(comparison_table({found["run"]: found}))


def trained(found: Found) -> None:
    """How training ended."""
    if found["result"]:
        result(found["result"])
        console.print(f"Report: {found['run']}/report.html", soft_wrap=True)
    else:
        say(f"stopped at step {found['step']:,} by {found['reason']}; the same command with --resume goes on")


def score(found: Found) -> None:
    """A text's perplexity and its most surprising tokens."""
    from firstsight.lab.report.tables import format_perplexity

    unknown = f"{found['unknown']:.2%} outside the vocabulary"
    console.print(
        f"perplexity {format_perplexity(found['perplexity'])} over {found['tokens']:,} tokens, {unknown}",
        soft_wrap=True,
    )
    table = Table(title="most surprising", title_justify="left")
    for name in ("token", "nll (nats)", "position", "after"):
        table.add_column(name, justify="right" if name in ("nll (nats)", "position") else "left")
    for row in found["surprising"]:
        table.add_row(row["token"], f"{row['nll']:.2f}", f"{row['position']:,}", row["before"])
    console.print(table, markup=False)


def demo(found: Found) -> None:
    """The comparison, what it says, and what to try next."""
    from firstsight.lab.report import comparison_table
    from firstsight.lab.report.tables import verdict

    if "interrupted" in found:
        say(f"ended by {found['interrupted']}; the same command goes on")
        return
    console.print(comparison_table(found["runs"]))
    console.print(verdict(found["runs"]), soft_wrap=True)
    console.print(f"Report: {found['report']}   ({found['seconds'] / 60:.1f} min)", soft_wrap=True)
    console.print(
        "Next: your own text.\n  firstsight data text --from FILE --out data/mine\n"
        "  firstsight train data/mine --out runs/mine --head hebbian\n  firstsight score runs/mine FILE",
        soft_wrap=True,
    )
