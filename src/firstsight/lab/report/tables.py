"""Numbers in words: the verdict, the terminal's table, the README's table, and how a number is written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from firstsight.lab.runs.compare import check_alike
from firstsight.lab.runs.result import check_result, perplexity

DASH = "–"
ALL = "all words"
RARE = {"<100": "words seen fewer than 100 times in training", "unseen": "words never seen in training"}
WORSE = 1.0  # percent from which on a loss on more frequent words is told too

Results = Mapping[str, dict[str, Any]]  # run name -> its ``result.json``


def format_perplexity(value: float | None) -> str:
    """``1,234.5``; no decimals from 10,000 on; a dash for the perplexity of no tokens."""
    value = perplexity(value)
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞"
    return f"{value:,.1f}" if value < 9_999.95 else f"{value:,.0f}"


def relative(value: float | None, base: float | None) -> float:
    """``(value - base) / base`` in percent; NaN where one of them is not a finite number."""
    value, base = perplexity(value), perplexity(base)
    return 100 * (value / base - 1) if math.isfinite(value) and math.isfinite(base) else math.nan


def format_relative(percent: float) -> str:
    """``−4.1%``, ``+2.6%``, ``0.0%``, or a dash."""
    return DASH if math.isnan(percent) else f"{signed(percent, 1)}%"


def signed(value: float, places: int) -> str:
    """A number with its sign, but none where it is rounded to 0."""
    rounded = round(value, places)
    sign = "−" if rounded < 0 else "+" if rounded > 0 else ""
    return f"{sign}{abs(rounded):,.{places}f}"


def rows(results: Results) -> list[tuple[str, int, dict[str, float]]]:
    """The table's rows: (name, tokens, perplexity of each run), all words first, then band by band."""
    first = next(iter(results.values()))
    table = [(ALL, first["tokens"], {name: perplexity(result["perplexity"]) for name, result in results.items()})]
    by_name = {name: {band["name"]: band["perplexity"] for band in result["bands"]} for name, result in results.items()}
    for band in first["bands"]:
        values = {name: perplexity(bands.get(band["name"])) for name, bands in by_name.items()}
        table.append((band["name"], band["tokens"], values))
    return table


def baseline(results: Results) -> str:
    """What differences refer to: the first run with a plain softmax, else the first run."""
    return next((name for name, result in results.items() if _head(result) == "softmax"), next(iter(results)))


def is_best(name: str, values: Mapping[str, float]) -> bool:
    """Whether the run has the lowest perplexity of several."""
    finite = [value for value in values.values() if math.isfinite(value)]
    return len(values) > 1 and bool(finite) and values[name] == min(finite)


def verdict(results: Results) -> str:
    """One sentence: which run has the lowest perplexity, by how much overall and on rare words.

    The winner is held against the best run with another head, or the next best where all have one head.
    """
    finite = {n: r for n, r in results.items() if math.isfinite(perplexity(r["perplexity"]))}
    if not finite:
        return "No run has a finite perplexity yet."
    ranked = sorted(finite, key=lambda name: finite[name]["perplexity"])
    best = ranked[0]
    split, value = finite[best]["split"], format_perplexity(finite[best]["perplexity"])
    if len(ranked) == 1:
        only = f" (the only finite one of {len(results)} runs)" if len(results) > 1 else ""
        recalled, rare = _recalled(finite[best]), _rare_values(finite[best])
        return f"{best} reaches a {split} perplexity of {value}{recalled}{only}{rare}."
    rival = next((name for name in ranked[1:] if _head(finite[name]) != _head(finite[best])), ranked[1])
    ours, theirs = finite[best], finite[rival]
    if format_relative(relative(theirs["perplexity"], ours["perplexity"])) == "0.0%":
        return f"{best} and {rival} are level at a {split} perplexity of {value}{_rare_differences(ours, theirs)}."
    if _head(ours) == "softmax" and _head(theirs) == "hebbian":
        percent = relative(theirs["perplexity"], ours["perplexity"])
        lost = format_perplexity(theirs["perplexity"])
        return (
            f"The Hebbian softmax loses: {rival} reaches a {split} perplexity of {lost}, "
            f"{abs(percent):.1f}% higher than {best} ({value}){_rare_differences(theirs, ours)}."
        )
    percent = relative(ours["perplexity"], theirs["perplexity"])
    return (
        f"{best} has the lowest {split} perplexity, {value}, {abs(percent):.1f}% lower than {rival} "
        f"({format_perplexity(theirs['perplexity'])}){_rare_differences(ours, theirs)}."
    )


def _recalled(result: Mapping[str, Any]) -> str:
    """Of a result with memories, which they are, and what the model has without."""
    variants = (result.get("memory") or {}).get("variants", [])
    if len(variants) < 2:
        return ""
    what, alone = variants[-1]["name"].removeprefix("+ "), format_perplexity(variants[0]["perplexity"])
    return f" with {what} at test time, {alone} without"


def _head(result: Mapping[str, Any]) -> Any:
    return result["config"].get("head")


def _rare_values(result: Mapping[str, Any]) -> str:
    bands = [band for band in result["bands"] if band["name"] in RARE and band["perplexity"] is not None]
    parts = [f"{format_perplexity(band['perplexity'])} on {RARE[band['name']]}" for band in bands]
    return "; " + " and ".join(parts) if parts else ""


def _rare_differences(result: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    parts = []
    for band, base in zip(result["bands"], other["bands"], strict=True):
        percent = relative(band["perplexity"], base["perplexity"])
        if band["name"] in RARE and not math.isnan(percent):
            level = format_relative(percent) == "0.0%"
            how = "level" if level else f"{abs(percent):,.1f}% {'lower' if percent < 0 else 'higher'}"
            parts.append(f"{how} on {RARE[band['name']]}")
        elif percent >= WORSE:
            parts.append(f"{percent:,.1f}% higher on words seen {band['name']} times")
    return "; it is " + " and ".join(parts) if parts else ""


def _checked(results: Results) -> None:
    for name, result in results.items():
        check_result(result, f"The result of {name}")
    check_alike(results)


def comparison_table(results: Results) -> Table:
    """The terminal's table: a row for all words and each frequency band, a column for each run.

    Differences are to the plain softmax (or the first run), in percent; the best of a row is bold.

    Raises:
        InputError: a result lacks a field, or two were not measured on the same tokens and vocabulary.
    """
    _checked(results)
    base = baseline(results)
    first = results[base]
    table = Table(title=Text(f"{first['dataset']}, {first['split']} perplexity"), title_justify="left")
    table.add_column("training count")
    table.add_column("tokens", justify="right")
    for name in results:
        table.add_column(Text(name), justify="right")
        if name != base:
            table.add_column(Text(f"to {base}"), justify="right")
    for i, (label, tokens, values) in enumerate(rows(results)):
        cells = [Text(label), Text(f"{tokens:,}")]
        for name, value in values.items():
            cells.append(Text(format_perplexity(value), style="bold" if is_best(name, values) else ""))
            if name != base:
                cells.append(Text(format_relative(relative(value, values[base]))))
        table.add_row(*cells, end_section=i == 0)
    return table


def markdown_table(results: Results) -> str:
    """The README's table: run, perplexity, each band; under it the data, the commit and the machine.

    Raises:
        InputError: as of ``comparison_table``.
    """
    _checked(results)
    table = rows(results)
    header = ["run", "perplexity", *(label for label, _, _ in table[1:])]
    lines = [markdown_row(header), markdown_row(["---", *["---:"] * len(table)])]
    for name in results:
        cells = [_markdown_escape(name)]
        for _, _, values in table:
            text = format_perplexity(values[name])
            cells.append(f"**{text}**" if is_best(name, values) else text)
        lines.append(markdown_row(cells, escape=False))
    first = next(iter(results.values()))
    told = [f"{first['dataset']}, {first['split']} split, {first['tokens']:,} tokens."]
    origins: dict[tuple[str, ...], list[str]] = {}  # one statement serves all runs that share it
    for name, result in results.items():
        origin = tuple(str(result.get(field) or "unknown") for field in ("git_commit", "machine", "torch_version"))
        origins.setdefault(origin, []).append(name)
    for (commit, machine, torch_version), names in origins.items():
        told.append(f"{', '.join(names)}: commit {commit[:12]}; {machine}; torch {torch_version}.")
    return "\n".join(lines) + "\n\n" + _markdown_escape(" ".join(told)) + "\n"


def markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    """A line of a Markdown table; ``escape`` keeps what the cells hold from being read as Markdown."""
    return "| " + " | ".join(_markdown_escape(cell) if escape else cell for cell in cells) + " |"


def _markdown_escape(text: str) -> str:
    text = " ".join(text.split())
    for char in "\\|<*`[":
        text = text.replace(char, "\\" + char)
    return text
