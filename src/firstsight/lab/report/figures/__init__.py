"""The figures of the paper, one file each: its runs, its JSON, its plots. ``CURVES`` and ``FIGURES`` list them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.curriculum.settings import DATA
from firstsight.lab.report.figures import (
    curricula,
    curves,
    figure_5,
    figure_6,
    figure_7,
    figure_8,
    figure_9,
    figure_10,
    figure_11,
)
from firstsight.lab.report.figures.gallery import write_gallery
from firstsight.lab.system import folder
from firstsight.lab.system.folder import hold

CURVES: dict[str, Callable[[str], curves.CurvesFigure]] = {
    "5": figure_5.figure,
    "6": figure_6.figure,
    "7": figure_7.figure,
    "8": figure_8.figure,
    "9": figure_9.figure,
}
FIGURES: dict[str, Callable[[int], curricula.CurriculaFigure]] = {
    "10": figure_10.figure,
    "11": figure_11.figure,
}


def make_figure(
    number: str,
    data: str | Path | None,
    out: str | Path,
    scale: str = "cpu",
    seeds: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Run what a figure still lacks, and write ``out/figure-N.json`` and its plots, PNG and SVG.

    Args:
        number: one of ``CURVES`` or ``FIGURES``.
        data: the data folder; by default the figure's own.
        out: folder of the figures; the runs lie in ``out/runs/SCALE``, and figures share them.
        scale: "cpu" or "paper"; other than for cpu it stands in the files' names.
        seeds: how many, from 0; by default 3 of a learning curve, 10 of a curriculum.
        workers: runs at a time; by default one a core.

    Returns:
        What the JSON holds: the object of ``CurvesFigure`` or of ``summarise``, and ``interrupted`` if a signal ended
        it. Besides, ``files``: each with what it shows. Interrupted, they show what there is; none are written if there
        is nothing.

    Raises:
        InputError: no such figure or scale; ``seeds`` or ``workers`` below 1; no such data, or data that does not fit;
            a folder holds a run of other settings or data; another figure is at work in ``out``.
        JobsFailedError: runs failed; the files show the others.
    """
    data, out = None if data is None else Path(data), Path(out)
    numbers = [*CURVES, *FIGURES]
    if number not in numbers:
        raise InputError(
            f"there is no figure {number} to make; expected {', '.join(numbers)}, or all for a page of them."
        )
    if scale not in curricula.STEPS:
        raise InputError(f"there is no scale {scale}; expected {' or '.join(curricula.STEPS)}.")
    name, about = file_name(number, scale), {"figure": number, "scale": scale}
    with hold(out, folder.FIGURES):
        if number in CURVES:
            seeds = curves.SEEDS if seeds is None else seeds
            return CURVES[number](scale).make(name, scale, data, seeds, out, workers, about)
        figure = FIGURES[number](curricula.STEPS[scale])
        seeds, data = curricula.SEEDS if seeds is None else seeds, data or DATA
        return figure.make(name, data, range(seeds), out, out / "runs" / scale, workers, about)


def make_gallery(out: str | Path, scale: str = "cpu") -> dict[str, Any]:
    """A page of all figures whose JSON lies in ``out``: see ``write_gallery``."""
    if scale not in curricula.STEPS:
        raise InputError(f"there is no scale {scale}; expected {' or '.join(curricula.STEPS)}.")
    names = {number: file_name(number, scale) for number in (*CURVES, *FIGURES)}
    with hold(out, folder.FIGURES):
        return write_gallery(names, Path(out), "figures.html" if scale == "cpu" else f"figures-{scale}.html")


def file_name(number: str, scale: str) -> str:
    """What a figure's files are called, without what follows the dot."""
    return f"figure-{number}" if scale == "cpu" else f"figure-{number}-{scale}"
