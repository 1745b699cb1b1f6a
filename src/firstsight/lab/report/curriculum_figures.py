"""The paper's figures of the Omniglot curriculum, from the runs to the PNG.

Figure 10 is drawn for two embeddings before the head, because they decide who leads (docs/omniglot.md); the paper does
not describe its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.curriculum.settings import RATES, Curriculum, OptimizerName
from firstsight.lab.curriculum.summary import Panel, summarise
from firstsight.lab.report.curriculum import curriculum_plots
from firstsight.lab.studies.curricula import finished, run_curricula
from firstsight.lab.studies.jobs import TasksFailedError
from firstsight.lab.system.files import write_json

STEPS = {"cpu": 500, "paper": 5000}
"""Most steps of a run, by scale; both are our decisions: cpu is about a minute a run, paper is to learn all classes."""

SETUPS = {"ReLU embedding": ("relu", Network()), "embedding of length 3": ("unit", Network(unit=True, scale=3.0))}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("softmax", {"head": "softmax"}),
    "Hebbian, the paper's rule": ("paper", {"head": "hebbian"}),
    "Hebbian, rule centered (ours)": ("centered", {"head": "hebbian", "rule": "centered"}),
}
OPTIMIZERS: dict[OptimizerName, str] = {"rmsprop": "RMSProp", "adam": "Adam", "adagrad": "AdaGrad"}
RMSPROP_RATES = (0.002, 0.004, 0.006, 0.008, 0.012, 0.02)


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the settings of each variant that it names."""

    title: str
    panels: Sequence[Panel]
    variants: Mapping[str, Curriculum]


def figure_10(steps: int) -> Figure:
    """Classes learned against steps: softmax and Hebbian Softmax (T = 10, gamma = 0.1), by optimizer."""
    panels, variants = [], dict[str, Curriculum]()
    for row, (setup, network) in SETUPS.items():
        for optimizer, title in OPTIMIZERS.items():
            lines = {}
            for line, (head, settings) in HEADS.items():
                name = f"{setup}-{optimizer}-{RATES[optimizer]:g}-{head}"
                lines[line] = name
                variants[name] = Curriculum(network=network, optimizer=optimizer, max_steps=steps, **settings)
            panels.append(Panel(f"{title} {RATES[optimizer]:g}", lines, row))
    return Figure("Figure 10: Omniglot curriculum", panels, variants)


def figure_11(steps: int) -> Figure:
    """Classes learned against steps: plain softmax, RMSProp at six learning rates."""
    lines, variants = {}, {}
    for rate in RMSPROP_RATES:
        lines[f"{rate:g}"] = name = f"relu-rmsprop-{rate:g}-softmax"
        lr = 0.0 if rate == RATES["rmsprop"] else rate  # as Figure 10 has it, which shares the runs
        variants[name] = Curriculum(head="softmax", optimizer="rmsprop", lr=lr, max_steps=steps)
    return Figure("Figure 11: learning rate", [Panel("softmax, RMSProp", lines)], variants)


FIGURES = {"10": figure_10, "11": figure_11}


def make_figure(
    number: str, data: Path, out: Path, scale: str = "cpu", seeds: int = 10, workers: int | None = None
) -> dict[str, Any]:
    """Run what a figure of the curriculum still lacks, and write ``out/figure-N.json`` and its PNGs.

    Args:
        number: "10" or "11".
        data: folder that ``firstsight data omniglot`` made.
        out: folder of the figures; the runs lie in ``out/runs/SCALE``, and figures share them.
        scale: "cpu" or "paper", see ``STEPS``; other than for cpu it stands in the files' names.
        seeds: how many, from 0.
        workers: runs at a time; by default one a core.

    Returns:
        What the JSON holds: ``summarise``'s object, and ``interrupted`` if a signal ended it. Besides, ``files``: each
        with what it shows. Interrupted, they show the runs that have ended; none are written if none has.

    Raises:
        InputError: no such figure or scale; ``seeds`` below 1; see ``run_curricula``.
        TasksFailedError: runs failed; the files show the others.
    """
    if number not in FIGURES:
        raise InputError(f"there is no figure {number} to make; expected {' or '.join(FIGURES)}.")
    if scale not in STEPS:
        raise InputError(f"there is no scale {scale}; expected {' or '.join(STEPS)}.")
    figure = FIGURES[number](STEPS[scale])
    name = f"figure-{number}" if scale == "cpu" else f"figure-{number}-{scale}"
    about = {"figure": number, "scale": scale}
    return run_figure(figure, name, data, range(seeds), out, out / "runs" / scale, workers, about)


def run_omniglot(data: Path, settings: Curriculum, seeds: int, out: Path, workers: int | None = None) -> dict[str, Any]:
    """Run one curriculum with several seeds, and write ``out/OPTIMIZER-RATE-HEAD.json`` and its PNGs.

    Args:
        data: folder that ``firstsight data omniglot`` made.
        settings: of all runs; ``settings.seed`` is the first seed.
        seeds: how many.
        out: folder of what the runs show together; they lie in ``out/OPTIMIZER-RATE-HEAD/seed-N``.
        workers: runs at a time; by default one a core.

    Returns:
        As ``make_figure``.

    Raises:
        InputError: ``seeds`` below 1; see ``run_curricula``.
    """
    head = "softmax" if settings.head == "softmax" else settings.rule
    name = f"{settings.optimizer}-{settings.rate:g}-{head}"
    optimizer = f"{OPTIMIZERS[settings.optimizer]} {settings.rate:g}"
    line = "softmax" if head == "softmax" else f"Hebbian, rule {head}"
    figure = Figure(f"Omniglot: {line}, {optimizer}", [Panel(optimizer, {line: name})], {name: settings})
    return run_figure(figure, name, data, range(settings.seed, settings.seed + seeds), out, out, workers, {})


def run_figure(
    figure: Figure,
    name: str,
    data: Path,
    seeds: range,
    out: Path,
    runs: Path,
    workers: int | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Run what a figure lacks in ``runs``, and write ``out/NAME.json`` with ``about`` in it; see ``make_figure``."""
    if not seeds:
        raise InputError(f"seeds is {seeds.stop - seeds.start}; expected 1 or more.")
    about = {**about, "title": figure.title, "seeds": len(seeds)}
    try:
        results, signal = run_curricula(data, figure.variants, seeds, runs, workers)
    except TasksFailedError:
        results = finished(data, figure.variants, seeds, runs)
        write_figure(summarise(figure.panels, figure.variants, results, **about), out, name)
        raise
    if signal:
        about["interrupted"] = signal
    return write_figure(summarise(figure.panels, figure.variants, results, **about), out, name)


def write_figure(found: dict[str, Any], out: Path, name: str) -> dict[str, Any]:
    """Write ``out/NAME.json`` and the PNGs drawn from it, unless no run has ended; gives ``make_figure``'s value."""
    files = {}
    if any(line["runs"] for panel in found["panels"] for line in panel["lines"]):
        write_json(out / f"{name}.json", found)
        files[str(out / f"{name}.json")] = "The numbers."
        files |= {str(plot.save_png(out)): plot.caption for plot in curriculum_plots(found, name)}
    return {**found, "files": files}
