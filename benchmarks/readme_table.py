"""Puts the result tables into README.md and the pages of docs, from the files in benchmarks/results.

python benchmarks/readme_table.py
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from front import table as when
from lasting import table as lasting
from scale_table import index as scale_index
from scale_table import numbers as scale_numbers
from scale_table import words as scale_words
from try_table import tables as trials

from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.report import markdown_table
from firstsight.lab.report.curriculum import binding_rows, pace_rows
from firstsight.lab.report.curriculum import markdown as rows_as_markdown
from firstsight.lab.report.figures.draw import wall_time_text
from firstsight.lab.report.figures.tables import end_rows
from firstsight.lab.report.study import markdown
from firstsight.lab.report.tables import format_perplexity, format_relative, relative
from firstsight.lab.system.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN_WHEN, END_WHEN = "<!-- when table: made by benchmarks/readme_table.py -->", "<!-- end of when table -->"
BEGIN_DEMO, END_DEMO = "<!-- demo: made by benchmarks/readme_table.py -->", "<!-- end of demo -->"
BEGIN_STUDY, END_STUDY = "<!-- study tables: made by benchmarks/readme_table.py -->", "<!-- end of study tables -->"
BEGIN_LASTING, END_LASTING = "<!-- lasting: made by benchmarks/readme_table.py -->", "<!-- end of lasting -->"
MEMORY = ("wikitext-2", "books-25")
BEGIN_SPEED, END_SPEED = "<!-- memory speed: made by benchmarks/readme_table.py -->", "<!-- end of memory speed -->"
BEGIN_TRIALS, END_TRIALS = "<!-- trials: made by benchmarks/readme_table.py -->", "<!-- end of trials -->"
OMNIGLOT = "omniglot tables: made by benchmarks/readme_table.py"
LINEAR, RATES = (
    "omniglot without ReLU: made by benchmarks/readme_table.py",
    "omniglot rates: made by benchmarks/readme_table.py",
)
STUDIES = ("gutenberg-25", "wikitext-2")
DEMO = ("softmax", "hebbian", "paper")
FIGURES = ("5", "7", "8", "9")


PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("index", "when", "memory", "omniglot", "try", "figures", "scale")),
]


def studies() -> str:
    """The studies' tables, from the committed results."""
    files = [RESULTS / "study" / name / "study.json" for name in STUDIES]
    return "\n\n".join(markdown(_read(file)).strip() for file in files) + "\n"


def demo() -> str:
    """The demo's table."""
    return markdown_table({name: _read(RESULTS / "demo" / f"{name}.json") for name in DEMO}).strip() + "\n"


def memories(corpus: str) -> str:
    """The model, with each memory and with all, by band, a table for each split."""
    tables = []
    for split in ("valid", "test"):
        found = _read(RESULTS / "memory" / f"{corpus}-{split}.json")
        variants = found["memory"]["variants"]
        lines = [f"| {split}, {found['tokens']:,} tokens | tokens | {' | '.join(v['name'] for v in variants)} |"]
        lines.append(f"|---|---:|{'---:|' * len(variants)}")
        bands = [{"name": "all words", "tokens": found["tokens"]}, *found["bands"]]
        for i, band in enumerate(bands):
            values = [v["perplexity"] if i == 0 else v["bands"][i - 1]["perplexity"] for v in variants]
            if band["tokens"]:
                cells = [_with_difference(value, values[0]) for value in values]
                name = str(band["name"]).replace("<", "\\<")
                lines.append(f"| {name} | {band['tokens']:,} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    settings = {kind.label: found["memory"].get(name) for name, kind in MEMORIES.items()}
    words = "; ".join(
        f"{label}: " + ", ".join(f"{k} {v}" for k, v in one.items() if k != "weight")
        for label, one in settings.items()
        if one
    )
    shares = []
    for variant in variants[1:]:
        of = {kind.label: variant.get(f"{name}_weight") for name, kind in MEMORIES.items()}
        used = ", ".join(f"{label} {weight:.3g}" for label, weight in of.items() if weight)
        shares.append(f"{variant['name']}: {used or 'none'}")
    tables.append(
        f"Perplexity. {words}. Weights: {'; '.join(shares)}. Commit {found['git_commit']}; {found['machine']}."
    )
    return "\n\n".join(tables) + "\n"


def _with_difference(value: float, model: float) -> str:
    text = format_perplexity(value)
    return text if value == model else f"{text} ({format_relative(relative(value, model))})"


def speed() -> str:
    """What the memories cost beside their bare products."""
    found = _read(RESULTS / "memory.json")
    cache = {row["window"]: row for row in found["cache"]}
    mbpa, grid = found["mbpa"], cache[10_000]["grid_over_cache"]["median"]
    short, long = (cache[window]["cache_over_mm"]["median"] for window in (2000, 10_000))
    one_short, one_long = (cache[window]["cache_over_mm_of_one_window"]["median"] for window in (2000, 10_000))
    lines = [
        f"Measured side by side at V = {found['V']:,}, D = {found['D']}, {found['threads']} threads "
        "(`benchmarks/memory.py`, medians):",
        "",
        f"- the cache takes {short:.2f} times as long as `torch.mm` of the same scores with a window of 2,000, "
        f"{long:.2f} times with 10,000 ({one_short:.2f} and {one_long:.2f} times one window's for all tokens, as many "
        "scores but not the right ones);",
        f"- all 105 points of the paper's cache grid take {grid:.2f} times as long as one evaluation;",
        f"- one step of MbPA (K = {mbpa['K']:,}, window {mbpa['window']:,}) runs at "
        f"{mbpa['products_over_mbpa']['median']:.0%} of the rate of its bare products, and "
        f"{mbpa['autograd_over_mbpa']['median']:.0f} times as fast as autograd token by token;",
        f"- over 200,000 tokens the cache needs {found['cache_peak_bytes_200k'] / 1e6:.0f} MB beyond the stream.",
    ]
    return "\n".join(lines) + "\n"


def omniglot(name: str = "figure-10") -> str:
    """Figure 10, or another of its kind, as two tables: how fast classes come, how new and old ones are recognised."""
    found = _read(RESULTS / "omniglot" / f"{name}.json")
    told = (
        "Accuracy in percent, mean ± sample standard deviation: new classes after so many presentations, and the 30 "
        "classes of the start when so many were reached."
    )
    return f"{rows_as_markdown(pace_rows(found))}\n{told}\n\n{rows_as_markdown(binding_rows(found))}\n{_made(found)}\n"


def rates() -> str:
    """Figure 11 as a table."""
    found = _read(RESULTS / "omniglot" / "figure-11.json")
    return f"{rows_as_markdown(pace_rows(found))}\n{_made(found)}\n"


def curves(number: str) -> str:
    """A figure of learning curves as a table, with the time of steps where that was measured."""
    found = _read(RESULTS / "figures" / f"figure-{number}.json")
    times = (found["wall_time"] or {}).items()
    told = "; ".join(wall_time_text(line, ratio) for line, ratio in times)
    note = "Perplexity of validation, mean ± sample standard deviation; differences paired by seed."
    note += f" Time of a step by that over all classes, median and quartiles: {told}." if told else ""
    return f"{rows_as_markdown(end_rows(found))}\n{note} {_made(found)}\n"


def _made(found: Any) -> str:
    hours, by = found["core_seconds"] / 3600, found["run_by"]
    commits, machines = (", ".join(by[key]) for key in ("git_commit", "machine"))
    return f"{found['seeds']} seeds, {hours:.1f} core hours in all. Commit {commits}; {machines}."


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def with_table(page: str) -> str:
    """A page with what stands between its marks made anew."""
    parts = (
        (BEGIN_WHEN, END_WHEN, when),
        (BEGIN_DEMO, END_DEMO, demo),
        (BEGIN_STUDY, END_STUDY, studies),
        (BEGIN_TRIALS, END_TRIALS, trials),
        (BEGIN_LASTING, END_LASTING, lasting),
    )
    marked: list[tuple[str, Callable[[], str]]] = [
        (OMNIGLOT, omniglot),
        (LINEAR, partial(omniglot, "linear")),
        (RATES, rates),
        *((f"memory of {name}: made by benchmarks/readme_table.py", partial(memories, name)) for name in MEMORY),
        ("ten million: made by benchmarks/readme_table.py", scale_numbers),
        ("an index: made by benchmarks/readme_table.py", scale_index),
        ("every word: made by benchmarks/readme_table.py", scale_words),
        *((f"figure {n}: made by benchmarks/readme_table.py", partial(curves, n)) for n in FIGURES),
    ]
    more = [(f"<!-- {mark} -->", f"<!-- end of {mark.split(':')[0]} -->", make) for mark, make in marked]
    for begin, end, make in (*parts, (BEGIN_SPEED, END_SPEED, speed), *more):
        if begin in page:
            before, rest = page.split(begin)
            page = f"{before}{begin}\n{make()}{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    for path in PAGES:
        text = with_table(path.read_text(encoding="utf-8"))
        with atomic_write(path) as file:
            file.write(text)
