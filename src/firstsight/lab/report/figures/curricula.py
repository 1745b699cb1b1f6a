"""Figures of the Omniglot curriculum, from the runs to the PNG: what Figures 10 and 11 share with ``omniglot``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.lab.curriculum.settings import Curriculum, OptimizerName
from firstsight.lab.curriculum.summary import Panel, summarise
from firstsight.lab.report.curriculum import curriculum_plots
from firstsight.lab.runs.jobs import JobsFailedError
from firstsight.lab.studies.curricula import finished, run_curricula
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import FIGURES, hold
from firstsight.lab.system.settings import check_seeds

STEPS = {"cpu": 500, "paper": 5000}
"""Most steps of a run, by scale; both are our decisions: cpu is about a minute a run, paper is to learn all classes."""

SEEDS = 10

OPTIMIZERS: dict[OptimizerName, str] = {"rmsprop": "RMSProp", "adam": "Adam", "adagrad": "AdaGrad"}


@dataclass(frozen=True)
class CurriculaFigure:
    """What is drawn, and the settings of each variant that it names."""

    title: str
    panels: Sequence[Panel]
    variants: Mapping[str, Curriculum]

    def make(
        self, name: str, data: Path, seeds: range, out: Path, runs: Path, workers: int | None, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run what the figure lacks in ``runs``, and write ``out/NAME.json`` with ``about`` in it, and its plots.

        Gives, and raises, what :func:`firstsight.lab.report.figures.make_figure` does.
        """
        check_seeds(seeds.stop - seeds.start)
        about = {**about, "title": self.title, "seeds": len(seeds)}
        try:
            results, signal = run_curricula(data, self.variants, seeds, runs, workers)
        except JobsFailedError:
            results = finished(data, self.variants, seeds, runs)
            write_figure(summarise(self.panels, self.variants, results, **about), out, name)
            raise
        if signal:
            about["interrupted"] = signal
        return write_figure(summarise(self.panels, self.variants, results, **about), out, name)


def write_figure(found: dict[str, Any], out: Path, name: str) -> dict[str, Any]:
    """Write ``out/NAME.json`` and its plots, PNG and SVG, unless no run has ended; gives ``make_figure``'s value."""
    files = {}
    if any(line["runs"] for panel in found["panels"] for line in panel["lines"]):
        write_json(out / f"{name}.json", found)
        files[str(out / f"{name}.json")] = "The numbers."
        for plot in curriculum_plots(found, name):
            files |= {str(path): plot.caption for path in (plot.save(out), plot.save(out, "svg"))}
    return {**found, "files": files}


def run_omniglot(
    data: str | Path, settings: Curriculum, seeds: int, out: str | Path, workers: int | None = None
) -> dict[str, Any]:
    """Run one curriculum with several seeds, and write ``out/OPTIMIZER-RATE-HEAD.json`` and its plots.

    The first seed is ``settings.seed``. The runs lie in ``out/OPTIMIZER-RATE-HEAD/seed-N``. Gives, and raises, what
    :func:`firstsight.lab.report.figures.make_figure` does.
    """
    head = "softmax" if settings.head == "softmax" else settings.rule
    name = f"{settings.optimizer}-{settings.rate:g}-{head}"
    optimizer = f"{OPTIMIZERS[settings.optimizer]} {settings.rate:g}"
    line = "softmax" if head == "softmax" else f"Hebbian, rule {head}"
    figure = CurriculaFigure(f"Omniglot: {line}, {optimizer}", [Panel(optimizer, {line: name})], {name: settings})
    data, out = Path(data), Path(out)
    with hold(out, FIGURES):
        return figure.make(name, data, range(settings.seed, settings.seed + seeds), out, out, workers, {})
