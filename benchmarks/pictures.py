"""Draws the pictures of the README and of docs anew, from the files in benchmarks/results.

python benchmarks/pictures.py

Not among them: tilt.png, whose runs ``benchmarks/study/tilt.py`` has to evaluate, and convergence-rare.png, which
``benchmarks/study/passes.py`` makes with its numbers.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from front import draw

from firstsight.lab.report.curriculum import curriculum_plots
from firstsight.lab.report.memory import sweep_plots
from firstsight.lab.report.study import groups
from firstsight.lab.report.study_figure import study_plot
from firstsight.lab.report.style import Plot

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "img"
SHOWN = ("figure-10", "figure-10-new-classes", "figure-10-oldest", "figure-11", "memory-cache")


def pictures() -> Iterator[Plot]:
    """Each with the name of its file in docs/img."""
    yield draw(_read("try/icd.json"))
    for name in ("gutenberg-25", "wikitext-2"):
        if plot := study_plot(groups(_read(f"study/{name}/study.json"))):
            yield dataclasses.replace(plot, name=f"study-{name}")
    found = [
        plot for name in ("figure-10", "figure-11") for plot in curriculum_plots(_read(f"omniglot/{name}.json"), name)
    ]
    for plot in [*found, *sweep_plots(_read("memory/wikitext-2-sweep.json"))]:
        if (name := plot.name.replace("_", "-")) in SHOWN:
            yield dataclasses.replace(plot, name=name)


def _read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    for picture in pictures():
        print(picture.save(PICTURES))
