"""What the README shows first, out of committed results: a picture of new classes that come, and for whom it pays.

benchmarks/pictures.py draws the one, benchmarks/readme_table.py puts in the other.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from firstsight.lab.classify.judgement.wording import mean, points, select
from firstsight.lab.classify.settings import SHOTS
from firstsight.lab.report.study import OVERALL, RARE, format_difference, groups
from firstsight.lab.report.style import STYLE, TITLE, WIDE, Plot, lines_of
from firstsight.lab.report.tables import relative

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# How classes come, by (method, arrival): what it is called, and whose colour it has. The first is ours.
WAYS: dict[tuple[str, str], tuple[str, str]] = {
    ("sight", "write"): ("firstsight: the write, nothing is trained", "ours"),
    ("softmax", "imprinting"): ("softmax, rows imprinted", "softmax"),
    ("cosine", "imprinting"): ("cosine softmax, rows imprinted", "cosine"),
    ("means", "added"): ("nearest class mean", "means"),
    ("softmax", "epoch"): ("softmax, one more epoch on everything", "softmax"),
    ("softmax", "replay"): ("softmax, fine-tuned on everything (960 steps)", "softmax"),
}
LINES = lines_of(dict(WAYS.values()))
PANELS = {"new_micro": "found of the 80 new classes", "old_micro": "right of the 729 old ones, still"}


def draw(trial: Any) -> Plot:
    """Two panels over the number of examples: accuracy on new classes, and on old ones."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, 3.7), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            _panel(axes, trial, key, title)
        handles = [Line2D([], [], color=line.color, linestyle=line.dashes, linewidth=2) for line in LINES.values()]
        figure.legend(handles, list(LINES), loc="outside lower center", ncols=2, frameon=False)
    return Plot("first-sight", "What is found of new classes, and what is left of the old ones.", figure)


def _panel(axes: Axes, trial: Any, key: str, title: str) -> None:
    for (method, arrival), (name, _) in WAYS.items():
        y = [mean(select(trial, method=method, arrival=arrival, shots=k), key) for k in SHOTS]
        own = arrival == "write"
        at, values = zip(*[(i, 100 * value) for i, value in enumerate(y) if value is not None], strict=True)
        line = LINES[name]
        axes.plot(at, values, color=line.color, linestyle=line.dashes, linewidth=2.6 if own else 1.5)
        axes.plot(at, values, "o", color=line.color, markersize=5.5 if own else 3.5)
    axes.set_title(title, loc="left", fontsize=TITLE, fontweight="bold")
    axes.set_xticks(range(len(SHOTS)), [str(k) for k in SHOTS])
    axes.set_xlabel("examples of each new class")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.grid(axis="y")


def table() -> str:
    """Use it when, use something else when: each line with what was measured."""
    icd, drawings, docstrings = (_read(f"try/{name}.json") for name in ("icd", "omniglot", "docstrings"))
    studies = ("gutenberg-25", "wikitext-2", "convergence", "batch")
    books, wiki, long, batch = (_study(_read(f"study/{name}/study.json"), "centered") for name in studies)
    lost = _study(_read("study/gutenberg-25/study.json"), "paper")
    rows = [
        (
            "new classes come to a trained classifier, and it cannot be trained anew each time",
            f"texts of 729 ICD-10 codes and 80 new ones, five examples of each: {_against(icd['at_once'])}",
            "**the write**: `partial_fit`, `head.write`",
        ),
        (
            "it can be trained anew on everything each time",
            f"the same texts: {_against(icd)}",
            "either; the write until then",
        ),
        (
            "vectors that a class mean tells apart as well",
            f"drawn characters: {_against(drawings)}; docstrings: {_against(docstrings)}",
            "`firstsight try` says; often class means, LDA or neighbours",
        ),
        (
            "a language model is trained from scratch and many words are rare",
            f"one pass: perplexity {books[0]} on books and {wiki[0]} on WikiText-2; on rare words {books[1]} "
            f"and {wiki[1]}; at convergence {long[0]} and {long[1]}, with a cache on top {_with_cache()}",
            "**the layer**, with the bias started at the frequencies, and a dropout of 0.3 or less",
        ),
        (
            "few and very large steps from random weights",
            f"200 steps of 51,200 tokens: perplexity {batch[0]}, on rare words {batch[1]} (one seed)",
            "a plain softmax",
        ),
        ("the paper's rule as it stands, on little text", f"books: perplexity {lost[0]}", "the default rule"),
        ("all classes are frequent, or the logits are needed as they are", "nothing to gain", "`nn.Linear`"),
    ]
    lines = ["| your case | measured here | take |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _against(trial: Any) -> str:
    """Right answers of the write less those of the best rival, in points."""
    mixed = trial["comparison"]["mixed"]
    low, difference, high = (points(mixed[key], sign=True) for key in ("low", "difference", "high"))
    return f"{difference} points against the best rival ({low} to {high})"


def _study(study: Any, variant: str) -> list[str]:
    """The change of perplexity over all words, and over rare ones: mean and deviation over seeds."""
    (group,) = groups(study)
    return [format_difference(group.differences(variant, measure), measure.percent) for measure in (OVERALL, RARE)]


def _with_cache() -> str:
    """The change at convergence where both models have a neural cache, over all words."""
    runs = _read("study/convergence/cache.json")["runs"]
    ours, base = ([one["+ cache"]["perplexity"] for one in runs[name].values()] for name in ("centered", "softmax"))
    return format_difference([relative(a, b) for a, b in zip(ours, base, strict=True)], percent=True)


def _read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))
