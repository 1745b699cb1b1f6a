"""The two tables of the paper, out of the figures' runs: perplexity by model, and by how often training has a word."""

from collections.abc import Mapping, Sequence
from typing import Any

from firstsight.lab.report.figures.curves import HEADS, PAPER, SOFTMAX
from firstsight.lab.report.figures.draw import Found
from firstsight.lab.report.figures.tables import at_the_end, with_spread
from firstsight.lab.report.tables import DASH

_VARIANTS = {variant: line for line, (variant, _) in HEADS.items()}
_PAPER, _PLAIN = HEADS[PAPER][0], HEADS[SOFTMAX][0]
# What secondary sources give of the paper's table: WikiText-103, validation and test.
PUBLISHED: dict[tuple[str, str], tuple[str, str]] = {
    (_PLAIN, ""): ("36.0", "36.4"),
    (_PAPER, ""): ("34.1", "34.3"),
    (_PAPER, "+ cache"): ("29.7 to 29.9", "29.7 to 29.9"),
    (_PAPER, "+ cache + MbPA"): ("29.0", "29.2"),
}

Lines = dict[str, Mapping[str, Any]]
"""By variant, a line of a figure."""


def runs_by_data(figures: Sequence[Found]) -> dict[str, Lines]:
    """Of each data set the lines that all figures have, each from the figure that has most evaluated runs of it."""
    found: dict[str, Lines] = {}
    for figure in figures:
        for line in figure["panels"][0]["lines"]:
            lines = found.setdefault(figure["data"]["name"], {})
            if line["variant"] in _VARIANTS and len(_tests(line)) > len(_tests(lines.get(line["variant"]))):
                lines[line["variant"]] = line
    return {data: lines for data, lines in found.items() if lines}


def _tests(line: Found | None) -> list[Found]:
    runs = line["runs"].values() if line else []
    return [run["test"] for run in runs if run["test"]]


def split_of(lines: Lines) -> str:
    """The split that the runs of a data set read at their end."""
    return str(_tests(next(iter(lines.values())))[0]["split"])


def model_rows(lines: Lines) -> list[list[str]]:
    """A head, and a row for each model: perplexity here, mean ± sample deviation over seeds, and the paper's."""
    split = split_of(lines)
    rows = [["", "valid, at the end", f"{split}, one stream", "the paper: valid", "the paper: test"]]
    for variant, line in _VARIANTS.items():
        tests = _tests(lines.get(variant))
        memories = [memory for test in tests for memory in test["memories"]]
        known = [memory for of, memory in PUBLISHED if of == variant]
        for memory in dict.fromkeys(["", *known, *memories]):
            values = [test["memories"].get(memory) if memory else test["perplexity"] for test in tests]
            here = with_spread([value for value in values if value is not None])
            valid = at_the_end(lines[variant]) if tests and not memory else DASH
            name = f"{line} {memory}".strip()
            rows.append([name, valid, here, *PUBLISHED.get((variant, memory), (DASH, DASH))])
    return rows


def band_rows(lines: Lines) -> list[list[str]]:
    """A head, and a row for each model: perplexity by how often the word occurs in training."""
    tests = {variant: _tests(lines.get(variant)) for variant in _VARIANTS}
    first = next(iter(found[0] for found in tests.values() if found))
    bands = [band["name"] for band in first["bands"] if band["tokens"]]
    rows = [["", *bands]]
    for variant, line in _VARIANTS.items():
        of_test = [{band["name"]: band["perplexity"] for band in test["bands"]} for test in tests[variant]]
        columns = [[one[name] for one in of_test if one.get(name) is not None] for name in bands]
        rows.append([line, *map(with_spread, columns)])
    return rows
