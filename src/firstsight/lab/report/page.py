"""The report: one HTML page that needs nothing beside it, and its figures as files.

Everything that comes from files passes ``html.escape`` on its way into the page.
"""

import dataclasses
import math
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.record import Record, load_records
from firstsight.lab.report.elements import div, figures, section, small_print, text_table, write_page
from firstsight.lab.report.memory import memory_notes, memory_section, told
from firstsight.lab.report.passage import draw_passage, passage_style
from firstsight.lab.report.plots import make_plots, make_sight_plots, series
from firstsight.lab.report.sights import SightCurves, compare_sights, sight_table
from firstsight.lab.report.style import Plot, PlotKind
from firstsight.lab.report.tables import (
    DASH,
    Results,
    baseline,
    format_perplexity,
    format_relative,
    is_best,
    relative,
    rows,
    verdict,
)
from firstsight.lab.runs.compare import unlike
from firstsight.lab.runs.metrics import write_csv
from firstsight.lab.system.folder import PAGE, RUN, hold
from firstsight.lab.system.progress import duration

HEAD_SETTINGS = {"head", "T", "gamma", "rule", "objective", "prior_count", "write_embedding", "write_after"}


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    force: bool = False,
    plots: PlotKind = "png",
    csv: bool = False,
) -> Path:
    """Write ``report.html``, whose path it gives, and its figures in ``plots/``, of one run or several.

    Beside the report of one run that was evaluated with memories lies ``passage.html``, a look inside.

    The page holds its figures and its style, loads nothing, runs no script, and follows the reader's dark mode.

    Args:
        runs: run folders; the order is that of columns and colours.
        out: the folder to write to; by default the run's own, where there is one run.
        force: compare results of other tokens or vocabularies too, with a note that says so.
        plots: what the figures beside the page are.
        csv: write ``metrics.csv`` too, a row for each validation of each run, its columns as ``metrics.flat`` names
            them.

    Raises:
        InputError: a folder is missing or holds no run, a file in it is damaged, the results were not measured on
            the same tokens and vocabulary (without ``force``), or ``out`` is missing for several runs or is a file.
    """
    if out is None and len(runs) > 1:
        raise InputError(f"A comparison of {len(runs)} runs needs a folder to be written to; name one with --out.")
    loaded = load_records(runs, force)
    folder = loaded[0].folder if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; expected a folder for report.html and plots/. Name another.")
    with hold(folder, RUN if folder.resolve() in {run.folder.resolve() for run in loaded} else PAGE):
        return _write(loaded, folder, plots, csv)


def _write(loaded: Sequence[Record], folder: Path, plots: PlotKind, csv: bool) -> Path:
    """The files of a report, in a folder that is held."""
    sights = compare_sights(loaded)
    main_plots, sight_plots = make_plots(loaded), make_sight_plots(loaded, sights)
    memory, memory_plots = memory_section(loaded)
    for plot in main_plots + sight_plots + memory_plots:
        plot.save(folder / "plots", plots)
    if csv:
        write_csv(folder / "metrics.csv", {run.name: run.metrics for run in loaded})
    passage = draw_passage(loaded[0], folder) if len(loaded) == 1 else ""
    sections = [_perplexities(loaded), section("Figures", figures(main_plots)), memory, passage]
    sections.append(_sights(sights, sight_plots))
    return write_page(
        folder / "report.html",
        _title(loaded),
        _verdict(loaded),
        _notes(loaded),
        [*sections, *_settings(loaded)],
        f". The figures lie beside this page as {plots.upper()} files, in the folder plots.",
        passage_style(),
    )


def _results(runs: Sequence[Record]) -> Results:
    return {run.name: run.result for run in runs if run.result}


def _title(runs: Sequence[Record]) -> str:
    dataset = next((run.result["dataset"] for run in runs if run.result), Path(runs[0].data).name)
    names = " against ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    return f"{names} on {dataset}"


def _verdict(runs: Sequence[Record]) -> str:
    results = _results(runs)
    if unlike(results):
        return "These perplexities were not measured alike: they stand side by side, and none is better by its number."
    if results:
        return verdict(results)
    curves = {run.name: series(run, "valid_perplexity") for run in runs}
    points = [(y, name, x) for name, curve in curves.items() for x, y in zip(*curve, strict=True)]
    if not points:
        return "Not evaluated yet, and no validation gave a finite perplexity."
    value, name, tokens = min(points)
    return (
        f"Not evaluated yet: the lowest validation perplexity so far is {format_perplexity(value)}, "
        f"reached by {name} after {tokens:,} tokens of training."
    )


def _notes(runs: Sequence[Record]) -> list[str]:
    """What a reader must know to judge the verdict."""
    results = _results(runs)
    notes = [
        f"Compared by force: {difference}. Token counts below are the first run's." for difference in unlike(results)
    ]
    notes += memory_notes(results)
    if len(runs) > 1:
        differing = _differing(runs)
        other = [name for name in differing if name not in HEAD_SETTINGS]
        if other and "head" in differing:
            notes.append(f"Besides the head, the runs differ in {_join(other)}: the effect is not the head's alone.")
        trained = {run.name: run.metrics[-1]["tokens"] for run in runs if run.metrics}
        if len(set(trained.values())) > 1:
            amounts = _join([f"{name} {tokens:,}" for name, tokens in trained.items()])
            notes.append(f"The runs were not trained on equally many tokens: {amounts}.")
        if results and len(results) < len(runs):
            notes.append(f"Not evaluated yet: {_join([run.name for run in runs if not run.result])}.")
    for name, result in results.items():
        if result.get("streams", 1) != 1:
            notes.append(
                f"{name} was evaluated in {result['streams']} parallel streams; the start of each has no context, so "
                "its perplexity is a little higher than with one stream."
            )
    return notes


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sights(sights: SightCurves | None, plots: Sequence[Plot]) -> str:
    if sights is None:
        return ""
    header, *table = sight_table(sights)
    note = "Mean loss in nats per token over the whole training. Lower is better."
    if sights.differences:
        note += f" Differences are to {sights.base}, on the same targets, but each is of a single pair of runs: one as"
        note += " small as that between two seeds means nothing."
    return section(
        "Learning a word, sight by sight",
        figures(plots),
        text_table("sights", header, table),
        small_print(note),
    )


def _perplexities(runs: Sequence[Record]) -> str:
    results = _results(runs)
    if not results:
        return ""
    base = baseline(results)
    first = results[base]
    head = "<th scope=col>training count</th><th scope=col>tokens</th>"
    for name in results:
        head += f"<th scope=col>{escape(name)}</th>"
        if name != base:
            head += "<th scope=col class=soft>difference</th>"
    body = []
    for i, (label, tokens, values) in enumerate(rows(results)):
        cells = f"<th scope=row>{escape(label)}</th><td>{tokens:,}</td>"
        for name, value in values.items():
            text = format_perplexity(value)
            # Figure spaces take the place of the decimal, so that the digits above and below stay aligned.
            text += "" if "." in text or text == DASH else "\u2008\u2007"
            cells += f"<td><strong>{text}</strong></td>" if is_best(name, values) else f"<td>{text}</td>"
            if name != base:
                cells += f"<td class=soft>{format_relative(relative(value, values[base]))}</td>"
        body.append(f"<tr class=total>{cells}</tr>" if i == 0 else f"<tr>{cells}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    note = "Words are grouped by how often they occur in the training split"
    note += f"; the vocabulary holds {first['vocabulary']:,}." if isinstance(first.get("vocabulary"), int) else "."
    if len(results) > 1:
        note += f" Lower is better, the best in bold. Differences are to {base}. Each column is a single run: a"
        note += " difference as small as that between two seeds means nothing."
    return section(f"Perplexity, {first['split']} split", div("scroll", [table]), small_print(note))


def _differing(runs: Sequence[Record]) -> list[str]:
    names = [field.name for field in dataclasses.fields(Config)]
    return [name for name in names if len({getattr(run.config, name) for run in runs}) > 1]


def _settings(runs: Sequence[Record]) -> list[str]:
    names = [field.name for field in dataclasses.fields(Config)]
    settings = {name: [_setting(getattr(run.config, name)) for run in runs] for name in names}
    sections = []
    if len(runs) > 1:
        differing = [(name, settings[name]) for name in _differing(runs)]
        same = small_print("Nothing: all settings are the same.")
        sections.append(section("What differs between the runs", _words(runs, differing) if differing else same))
    everything = [("data", [run.data for run in runs]), *settings.items()]
    commands = "\n".join(dict.fromkeys(command for run in runs for command in _commands(run)))
    origins = [_origin(run) for run in runs]
    sections.append(
        section(
            "To do it again",
            f"<pre>{escape(commands)}</pre>",
            "<h3>Where the numbers come from</h3>",
            _words(runs, [(label, [origin[label] for origin in origins]) for label in origins[0]]),
            f"<details><summary>All settings</summary>{_words(runs, everything)}</details>",
        )
    )
    return sections


def _words(runs: Sequence[Record], table: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of text: a row for each label, a column for each run."""
    return text_table("words", ["", *(run.name for run in runs)], [[label, *cells] for label, cells in table])


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _commands(run: Record) -> list[str]:
    """The command that trains the run, naming each setting that is not the default, and the one that evaluated it."""
    words = ["firstsight", "train", run.data, "--out", str(run.folder)]
    default = recipe("small")  # what firstsight train starts from
    for field in dataclasses.fields(Config):
        value, flag = getattr(run.config, field.name), field.name.replace("_", "-")
        if value != getattr(default, field.name):
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
    commands = [shlex.join(words)]
    told = str((run.result or {}).get("command", ""))
    if told and not told.startswith("firstsight train "):  # which evaluates too
        commands.append(told)
    return commands


def _origin(run: Record) -> dict[str, str]:
    """Where a run's numbers come from."""
    result = run.result or {}
    checkpoint = result.get("checkpoint")
    found = {"trained": _trained(run), "checkpoint": DASH, "evaluated": _evaluated(run)}
    if isinstance(checkpoint, dict):
        found["checkpoint"] = f"{checkpoint.get('name')}, step {checkpoint.get('step'):,}"
    found["memory"] = told(result.get("memory"))
    names = {"machine": "machine", "git commit": "git_commit", "firstsight": "version", "torch": "torch_version"}
    return found | {label: DASH if result.get(name) is None else str(result[name]) for label, name in names.items()}


def _trained(run: Record) -> str:
    if not run.metrics:
        return DASH
    last = run.metrics[-1]
    seconds = last.get("seconds")
    took = f", {duration(seconds)}" if isinstance(seconds, (int, float)) and math.isfinite(seconds) else ""
    return f"{last['step']:,} steps, {last['tokens']:,} tokens{took}"


def _evaluated(run: Record) -> str:
    result = run.result
    if result is None:
        return "not yet"
    seconds = f", {duration(result['seconds'])}" if isinstance(result.get("seconds"), (int, float)) else ""
    streams = result.get("streams", 1)
    return f"{result['tokens']:,} tokens in {streams} stream{'' if streams == 1 else 's'}{seconds}"
