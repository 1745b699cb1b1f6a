"""``report.html`` of a trial: one page that needs nothing beside it. All text passes ``html.escape``."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from firstsight.lab.classify.judgement.advice import remarks
from firstsight.lab.classify.judgement.wording import ARRIVALS, DASH, counted, named
from firstsight.lab.report.elements import div, figures, section, small_print, text_table, write_page
from firstsight.lab.report.passage import passage_style
from firstsight.lab.report.trial.plots import trial_plots
from firstsight.lab.report.trial.table import Row, head, trial_rows

Trial = Mapping[str, Any]

LONGEST_TEXT = 240  # characters of an example text
CONFUSIONS = 15
FOUND = {
    "rows": "rows",
    "classes": "classes",
    "below_5": "classes with fewer than 5 rows",
    "5_to_20": "classes with 5 to 20 rows",
    "above_20": "classes with more than 20 rows",
    "features": "features of a vector",
    "encoder": "vectors by",
    "old_classes": "old classes, that are trained",
    "train": "rows to train on",
    "valid": "rows of old classes to choose on",
    "test": "rows of old classes to judge on",
    "new_valid": "new classes to choose on",
    "new_test": "new classes to judge on",
    "constant_vectors": "constant vectors",
    "zero": "vectors of zero",
}


def write_trial_report(out: str | Path, trial: Trial, texts: Sequence[str] | None = None) -> Path:
    """Write ``report.html``, whose path it gives, and ``plots/*.png`` about a trial.

    The page holds its figures and its style, loads nothing, runs no script, and follows the reader's dark mode.

    Args:
        out: the folder of the trial.
        trial: the content of ``trial.json``.
        texts: of all rows, where there are texts: the examples of the worst confusions.
    """
    plots, out = trial_plots(trial), Path(out)
    for plot in plots:
        plot.save(out / "plots")
    name = (trial.get("source") or {}).get("file") or "Python's docstrings"
    sections = [
        section("The comparison", figures(plots[:1]), _comparison_note(trial)),
        section("All methods", _table(trial_rows(trial), head(trial)), _table_note(trial)),
        section("Figures", figures(plots[1:])),
        _after_an_epoch(trial),
        _confusions(trial, texts),
        section("To paste", f"<pre>{escape(str(trial['paste']).rstrip())}</pre>"),
        _data(trial),
        _again(trial),
    ]
    return write_page(
        out / "report.html",
        f"Does it help on {Path(name).name}?",
        trial["advice"],
        remarks(trial),
        sections,
        ". The figures lie beside this page as PNG files, in the folder plots; all numbers are in trial.json.",
        passage_style(),
    )


def _comparison_note(trial: Trial) -> str:
    comparison = trial["comparison"]
    return small_print(
        f"Both were chosen on the validation part, on other new classes; this comparison was made once. "
        f"{comparison['draws']:,} draws of the classes, old and new within their group, the same for both, and of "
        f"{counted(comparison['seeds'], 'training')}. The verdict is that of the mixed accuracy; intervals of the "
        "parts are not adjusted for being several."
    )


def _table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A table whose chosen rows are in bold; the first two columns are text."""
    heads = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in columns)
    body = []
    for row in rows:
        name, *cells = row.cells
        bold = ("<strong>", "</strong>") if row.chosen else ("", "")
        mark = {"ours": " (ours, compared)", "rival": " (rival, compared)", "": ""}[row.chosen]
        tds = "".join(f"<td>{bold[0]}{escape(cell)}{bold[1]}</td>" for cell in cells)
        body.append(f"<tr><th scope=row>{bold[0]}{escape(name + mark)}{bold[1]}</th>{tds}</tr>")
    if not body:
        return ""
    return div("scroll", [f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"])


def _table_note(trial: Trial) -> str:
    choice = trial["choice"]
    return small_print(
        "Everything on test, in percent of queries right with old and new classes as candidates; mean ± sample "
        "standard deviation over trainings, the mean alone where nothing is random or there was one. Mixed: of queries "
        f"{100 * choice['new_share']:g}% of which are of new classes with {choice['shots']} examples each; NLL (nats) "
        "and expected calibration error (15 bins) are of that mix. Rows are in the order of the validation part."
    )


def _after_an_epoch(trial: Trial) -> str:
    rows = trial_rows(trial, at_once=False)
    note = (
        "What comes of training once more over everything, the new examples too, for those that can afford it. It "
        "takes all old rows and the time below; the write takes neither."
    )
    return section("After one more epoch over everything", _table(rows, head(trial)), small_print(note)) if rows else ""


def _confusions(trial: Trial, texts: Sequence[str] | None) -> str:
    found = list(trial.get("confusions") or [])[:CONFUSIONS]
    table = []
    for one in found:
        row = [str(one["true"]), str(one["answered"]), f"{one['count']:,}"]
        if texts is not None:
            row.append(" / ".join(_short(texts[at]) for at in one.get("rows") or []) or DASH)
        table.append(row)
    if not table:
        return ""
    columns = ["label", "taken for", "queries", *(["for example"] if texts is not None else [])]
    return section(
        "Worst confusions",
        text_table("words", columns, table),
        small_print(
            f"Of {named(trial, trial['choice']['ours'])} on test, in one training. Labels that are often taken for "
            "each other may mean the same, or some rows may be mislabelled."
        ),
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _data(trial: Trial) -> str:
    data = trial["data"]
    table = [[label, _value(data[name])] for name, label in FOUND.items() if data.get(name) is not None]
    if isinstance(data.get("of_file"), int) and data["of_file"] != data.get("rows"):
        table.insert(1, ["of the file's rows", _value(data["of_file"])])
    twins = data.get("duplicates") or {}
    if twins:
        table.append(["rows that repeat an earlier one, word for word", _value(twins.get("rows"))])
        table.append(["rows of test that are in training too", _value(twins.get("across"))])
    notes = [small_print(str(note)) for note in data.get("notes") or []]
    return section("What was found in the data", text_table("words", ["", ""], table), *notes)


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _again(trial: Trial) -> str:
    origin = {"machine": "machine", "git commit": "git_commit", "firstsight": "version", "torch": "torch_version"}
    table = [[label, DASH if trial.get(name) is None else str(trial[name])] for label, name in origin.items()]
    table.append(["compared", " against ".join(named(trial, trial["choice"][side]) for side in ("ours", "rival"))])
    if trial.get("winner"):
        table.append(["the trained winner", str(trial["winner"])])
    methods = [[one["title"], _setting(one), _converged(one)] for one in trial["methods"]]
    settings = [[name, str(value)] for name, value in trial["settings"].items()]
    plan = (trial.get("plan") or {}).get("said")
    return section(
        "To do it again",
        f"<pre>{escape(str(trial.get('command') or 'firstsight try'))}</pre>",
        "<h3>Where the numbers come from</h3>",
        text_table("words", ["", ""], table),
        small_print(str(plan)) if plan else "",
        "<details><summary>All settings</summary>"
        + text_table("words", ["setting", ""], settings)
        + text_table("words", ["method", "chosen on validation", "converged"], methods)
        + "</details>",
    )


def _setting(method: Mapping[str, Any]) -> str:
    name = method.get("setting", "rate")
    ways: dict[float, list[str]] = {}
    for arrival, rate in (method.get("rates") or {}).items():
        if rate is not None:
            ways.setdefault(rate, []).append(ARRIVALS[arrival])
    if len(ways) == 1:
        return f"{name} {next(iter(ways)):g}"
    return "; ".join(f"{name} {rate:g}: {', '.join(own)}" for rate, own in ways.items()) or DASH


def _converged(method: Mapping[str, Any]) -> str:
    return {True: "yes", False: "no"}.get(method.get("converged"), DASH)  # type: ignore[arg-type]
