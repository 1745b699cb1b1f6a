"""``firstsight adapt``: let a trained model write while it reads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from tyro.conf import Positional

from firstsight.errors import InputError
from firstsight.heads.rules import RuleName
from firstsight.lab.cli.output import (
    Checkpoint,
    Device,
    Found,
    Json,
    MaybeInt,
    MaybePath,
    Moved,
    console,
    new_table,
    show,
    tell,
)
from firstsight.lab.reading.writing import Writing
from firstsight.lab.system.devices import AUTO

DEFAULT = Writing()
# What becomes of a new word in each row of the table of an open text.
TREATMENTS = {
    "closed": "it is <unk>, whose probability the new words met so far share",
    "closed_by_count": "the same, shared by how often each was met",
    "closed_written": "the same, and the words of the vocabulary are written as they are read",
    "unwritten": "it gets a row of its own, of random direction",
    "written": "it gets a row of its own, written at each sight",
    "all_written": "the same, and the words of the vocabulary are written too",
    "sighted": "it gets a row and a bias from its first sight on, with nothing chosen by hand",
}
CLOSED = ("closed", "closed_by_count", "closed_written")  # of an open text, what has no row for a new word


def adapt(
    run: Positional[Path],
    split: Literal["valid", "test"] = "valid",
    tune: bool = False,
    rule: RuleName = DEFAULT.rule,
    gamma: float = DEFAULT.gamma,
    T: int = DEFAULT.T,
    max_count: MaybeInt = DEFAULT.max_count,
    block: int = DEFAULT.block,
    forget: bool = True,
    text: MaybePath = None,
    open: bool = False,
    offset: float = 0.0,
    tune_tokens: int = 20_000,
    checkpoint: Checkpoint = "best",
    data: Moved = None,
    device: Device = AUTO,
    json: Json = False,
) -> int:
    """Let a trained model write into its output rows what it reads, against the same model that does not.

    Example: firstsight adapt runs/softmax --tune --split test

    Args:
        run: folder of the run.
        split: which text of its corpus.
        tune: choose rule, gamma and max-count on the beginning of the validation split, then read once with the best.
        rule: how a row moves (docs/rule.md).
        gamma: the rate at which it moves.
        T: a class is written at its first T sights in the text.
        max_count: write only words that training had fewer times; none for all.
        block: tokens scored before they are written; fewer is fresher and slower.
        forget: put the rows back where a document begins, if the corpus knows where.
        text: read this UTF-8 file instead.
        open: words of the text outside the vocabulary become classes of their own at first sight.
        offset: nats added to the bias of these.
        tune_tokens: tokens of validation that --tune reads.
    """
    from firstsight.lab.reading.adapt import adapt_run, open_text

    if open and text is None:
        raise InputError("--open needs --text FILE: a data folder has <unk> where a word was new, not the word.")
    if tune_tokens < 1:
        raise InputError(f"tune-tokens is {tune_tokens}; expected 1 or more.")
    given = Writing(rule=rule, gamma=gamma, T=T, max_count=max_count, block=block)
    if tune and given != DEFAULT:
        raise InputError("--tune chooses rule, gamma and max-count; leave out those, T and block.")
    if tune and text is None and split == "valid":
        raise InputError(
            "--tune chooses on the validation split and cannot report it: add --split test or --text FILE."
        )
    if offset and not open:
        raise InputError("--offset is about the new classes of --open; add that, or leave it out.")
    writing = None if tune else given
    where: dict[str, Any] = {"checkpoint": checkpoint, "data": data, "device": device}
    where["tune_tokens"] = tune_tokens
    if open and text is not None:
        return show(open_text(run, text, writing, offset=offset, **where), json, show_open)
    return show(adapt_run(run, split, writing, text=text, forget=forget, **where), json, show_adapted)


def show_adapted(found: Found) -> None:
    """The model without and with writing: overall, by band, by sight."""
    settings = ", ".join(f"{name} {value}" for name, value in found["writing"].items())
    names = ("", "tokens", "perplexity", "written", "change of NLL (nats)")
    table = new_table(f"{found['run']}: {settings}", names)
    one, other = found["model"], found["adapted"]
    rows = [({"name": "all", "tokens": found["tokens"], **one}, other)]
    rows += list(zip(one["bands"], other["bands"], strict=True))
    for before, after in rows:
        if before["tokens"]:
            pair = _pair(before["perplexity"], after["perplexity"], lambda a, b: math.log(b / a))
            table.add_row(before["name"], f"{before['tokens']:,}", *pair)
    console.print(table)
    names = ("sights before", "tokens", "NLL", "written", "change")
    table = new_table("rare words, by how often the text has had them", names)
    for row in found["sights"]:
        pair = _pair(row["model"], row["adapted"], lambda a, b: b - a)
        table.add_row(str(row["seen"]), f"{row['tokens']:,}", *pair)
    console.print(table)


def show_open(found: Found) -> None:
    """NLL of new words by sight, and of all others, under each treatment."""
    new = found["new"]
    table = Table(
        title=f"{new['types']:,} new words, {new['tokens']:,} of {found['tokens']:,} tokens; NLL in nats, by sight"
    )
    names = list(new["sights"])
    table.add_column("", no_wrap=True)
    for name in ["all", "known", *(f"{name} ({new['sights'][name]:,})" for name in names)]:
        table.add_column(name, justify="right")
    for row in found["variants"]:
        values = (row["all"], row["known"], *(row["new"][name] for name in names))
        table.add_row(row["name"], *map(_number, values))
    console.print(table)
    for row in found["variants"]:
        tell(f"  {row['name']}: {TREATMENTS[row['name']]}")
    tell(_gained({row["name"]: row["all"] for row in found["variants"]}))


def _gained(nll: dict[str, float]) -> str:
    """What rows for new words gained or lost against a vocabulary that stays closed, each at its best."""
    best = {
        kind: min(names, key=nll.__getitem__)
        for kind, names in (("open", ("written", "all_written", "sighted")), ("closed", CLOSED))
    }
    change = nll[best["open"]] - nll[best["closed"]]
    verb = "gained" if change < 0 else "lost"
    return (
        f"A row for each new word {verb} {abs(change):.3f} nats a token: {best['open']}, the best with one, against "
        f"{best['closed']}, the best without; perplexity {100 * math.expm1(change):+.1f}%."
    )


def _pair(one: float | None, other: float | None, change: Callable[[float, float], float]) -> tuple[str, str, str]:
    changed = "" if one is None or other is None else f"{change(one, other):+.3f}"
    return _number(one), _number(other), changed


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3f}" if value < 1000 else f"{value:,.0f}"
