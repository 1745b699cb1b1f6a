"""The README's picture, out of the trial on ICD: what is found of new classes, and what that costs the old ones.

    python benchmarks/front_figure.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from firstsight.lab.classify.judgement.wording import mean, select
from firstsight.lab.classify.settings import SHOTS
from firstsight.lab.report.style import SERIES, STYLE, Plot

ROOT = Path(__file__).resolve().parent.parent
TRIAL = ROOT / "benchmarks" / "results" / "try" / "icd.json"
# How classes come, by (method, arrival): what it is called, its colour, its dashes. The first is ours.
WAYS = {
    ("sight", "write"): ("firstsight: the write, nothing is trained", SERIES[0], "-"),
    ("softmax", "imprinting"): ("softmax, rows imprinted", SERIES[1], "-"),
    ("cosine", "imprinting"): ("cosine softmax, rows imprinted", SERIES[1], (0, (4, 1.5))),
    ("means", "added"): ("nearest class mean", SERIES[2], "-"),
    ("softmax", "epoch"): ("softmax, one more epoch on everything", SERIES[3], "-"),
    ("softmax", "replay"): ("softmax, fine-tuned on everything (960 steps)", SERIES[3], (0, (4, 1.5))),
}
PANELS = {"new_micro": "found of the 80 new classes", "old_micro": "right of the 729 old ones, still"}


def draw(trial: Any) -> Plot:
    """Two panels over the number of examples: accuracy on new classes, and on old ones."""
    figure = Figure(figsize=(7.6, 3.7), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        _panel(axes, trial, key, title)
    handles = [Line2D([], [], color=color, linestyle=dashes, linewidth=2) for _, color, dashes in WAYS.values()]
    names = [name for name, _, _ in WAYS.values()]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return Plot("first-sight", "What is found of new classes, and what is left of the old ones.", figure)


def _panel(axes: Axes, trial: Any, key: str, title: str) -> None:
    for (method, arrival), (_, color, dashes) in WAYS.items():
        y = [mean(select(trial, method=method, arrival=arrival, shots=k), key) for k in SHOTS]
        own = arrival == "write"
        at, values = zip(*[(i, 100 * value) for i, value in enumerate(y) if value is not None], strict=True)
        axes.plot(at, values, color=color, linestyle=dashes, linewidth=2.6 if own else 1.5)
        axes.plot(at, values, "o", color=color, markersize=5.5 if own else 3.5)
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xticks(range(len(SHOTS)), [str(k) for k in SHOTS])
    axes.set_xlabel("examples of each new class", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.grid(axis="y")


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        path = draw(json.loads(TRIAL.read_text(encoding="utf-8"))).save_png(ROOT / "docs" / "img")
    print(path)
