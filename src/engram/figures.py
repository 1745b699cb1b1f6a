"""The paper's figures of the Omniglot curriculum, from the runs to the PNG.

Figure 10 is drawn for two embeddings before the head, because they decide who leads (docs/omniglot.md); the paper does
not describe its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.curriculum.runs import run_curricula
from engram.curriculum.settings import RATES, Curriculum, OptimizerName
from engram.curriculum.summary import Panel, summarise
from engram.errors import InputError
from engram.files import write_json
from engram.models.convnet import Network
from engram.report.curriculum import curriculum_plots

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
        data: folder that ``engram data omniglot`` made.
        out: folder of the figures; the runs lie in ``out/runs``, and figures share them.
        scale: "cpu" or "paper", see ``STEPS``. A run of a smaller scale goes on at a larger.
        seeds: how many, from 0.
        workers: runs at a time; by default one a core.

    Returns:
        What the JSON holds (``summarise``), ``files``, and ``interrupted`` if a signal ended it: then the files
        show the runs that have ended.

    Raises:
        InputError: no such figure; ``seeds`` below 1; see ``run_curricula``.
    """
    if number not in FIGURES:
        raise InputError(f"there is no figure {number} to make; expected {' or '.join(FIGURES)}.")
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; expected 1 or more.")
    figure = FIGURES[number](STEPS[scale])
    results, signal = run_curricula(data, figure.variants, range(seeds), out / "runs", workers)
    about = {"figure": number, "title": figure.title, "scale": scale, "seeds": seeds}
    return write_figure(summarise(figure.panels, figure.variants, results, **about), out, f"figure-{number}", signal)


def run_omniglot(data: Path, settings: Curriculum, seeds: int, out: Path, workers: int | None = None) -> dict[str, Any]:
    """Run one curriculum with several seeds, and write ``out/OPTIMIZER-RATE-HEAD.json`` and its PNGs.

    Args:
        data: folder that ``engram data omniglot`` made.
        settings: of all runs; ``settings.seed`` is the first seed.
        seeds: how many.
        out: folder of what the runs show together; they lie in ``out/OPTIMIZER-RATE-HEAD/seed-N``.
        workers: runs at a time; by default one a core.

    Returns:
        As ``make_figure``.

    Raises:
        InputError: ``seeds`` below 1; see ``run_curricula``.
    """
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; expected 1 or more.")
    head = settings.head if settings.head == "softmax" else f"{settings.head}, rule {settings.rule}"
    variant = f"{settings.optimizer}-{settings.rate:g}-{head.split()[-1]}"
    optimizer = f"{OPTIMIZERS[settings.optimizer]} {settings.rate:g}"
    numbered = range(settings.seed, settings.seed + seeds)
    results, signal = run_curricula(data, {variant: settings}, numbered, out, workers)
    about = {"title": f"Omniglot: {head}, {optimizer}", "seeds": seeds}
    found = summarise([Panel(optimizer, {head: variant})], {variant: settings}, results, **about)
    return write_figure(found, out, variant, signal)


def write_figure(found: dict[str, Any], out: Path, name: str, signal: str = "") -> dict[str, Any]:
    """Write ``out/NAME.json`` and the PNGs drawn from it; gives ``make_figure``'s value."""
    path = out / f"{name}.json"
    write_json(path, found)
    files = [str(plot.save_png(out)) for plot in curriculum_plots(found, name)]
    return {**found, "files": [str(path), *files], **({"interrupted": signal} if signal else {})}
