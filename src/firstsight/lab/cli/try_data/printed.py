"""What ``firstsight try`` prints: what was found, the table, the advice, where the report is, and what to paste."""

import textwrap
from pathlib import Path

from rich.text import Text

from firstsight.lab.cli.output import Found, console, new_table, tell
from firstsight.lab.system.progress import PlainConsole

WIDE = 120  # columns where the output is no terminal


def print_trial(trial: Found, report: Path) -> None:
    """A trial for a person at a terminal."""
    from firstsight.lab.classify.judgement.advice import remarks

    for line in found_lines(trial):
        tell(line)
    _print_table(trial)
    width = console.width if console.is_terminal else WIDE
    tell(*textwrap.wrap(trial["advice"], width))
    for remark in remarks(trial):
        tell(*textwrap.wrap(f"- {remark}", width, subsequent_indent="  "))
    tell("", f"Report: {report}   numbers: {report.parent / 'trial.json'}")
    if trial.get("winner"):
        loads = ", which FirstSightClassifier.load reads" if trial["winner"].endswith("classifier.safetensors") else ""
        tell(f"The trained winner, of the old classes' training rows: {trial['winner']}{loads}")
    tell("", "To paste; it trains anew, on all rows of the data:", "", *trial["paste"].split("\n"))


def found_lines(trial: Found) -> list[str]:
    """What the data are, in a few lines."""
    data = trial["data"]
    vectors = f"{data['features']:,} features" + (f" by {data['encoder']}" if data.get("encoder") else "")
    lines = [
        f"{data['rows']:,} rows, {data['classes']:,} classes, {vectors}",
        f"classes by rows: {data['below_5']:,} below 5, {data['5_to_20']:,} of 5 to 20, {data['above_20']:,} above 20",
        f"old classes: {data['old_classes']:,}; rows: {data['train']:,} to train on, {data['valid']:,} to choose on, "
        f"{data['test']:,} to judge on",
        f"new classes: {data['new_valid']:,} to choose on, {data['new_test']:,} others to judge on; the other "
        f"{data['rows'] - data['train'] - data['valid'] - data['test']:,} rows are theirs, or not used",
    ]
    twins = data.get("duplicates") or {}
    if twins.get("rows"):
        lines.append(f"{twins['rows']:,} rows repeat an earlier one; {twins['across']:,} of test are in training too")
    return [*lines, *map(str, data.get("notes") or [])]


def _print_table(trial: Found) -> None:
    from firstsight.lab.classify.settings import SHOTS
    from firstsight.lab.report.trial import trial_rows

    shots, share = trial["choice"]["shots"], f"{100 * trial['choice']['new_share']:g}%"
    names = ["method", "old", *[f"new {k}" for k in SHOTS], "mixed", "NLL", "ECE", "train", "learn"]
    table = new_table(f"Percent right on test; * was compared: old, and mixed ({share} new), at {shots} shown", names)
    for column in table.columns[1:]:
        column.no_wrap = True
    table.columns[0].justify = "left"
    for row in trial_rows(trial):
        name, arrival, *cells = row.cells
        name = f"{name}, {arrival}" if arrival != "added" else name
        plain = [name + (" *" if row.chosen else ""), *(cell.split(" ± ")[0] for cell in cells)]
        table.add_row(*(Text(cell, style="bold" if row.chosen else "") for cell in plain))
    PlainConsole(width=None if console.is_terminal else WIDE).print(table)
