"""The figures of the paper, one file each: the runs it needs, its JSON, its plots. ``FIGURES`` lists them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.report.figures import curricula, figure_10, figure_11

FIGURES: dict[str, Callable[[int], curricula.CurriculaFigure]] = {
    "10": figure_10.figure,
    "11": figure_11.figure,
}


def make_figure(
    number: str, data: Path, out: Path, scale: str = "cpu", seeds: int = 10, workers: int | None = None
) -> dict[str, Any]:
    """Run what a figure of the curriculum still lacks, and write ``out/figure-N.json`` and its PNGs.

    Args:
        number: one of ``FIGURES``.
        data: folder that ``firstsight data omniglot`` made.
        out: folder of the figures; the runs lie in ``out/runs/SCALE``, and figures share them.
        scale: one of ``STEPS``; other than for cpu it stands in the files' names.
        seeds: how many, from 0.
        workers: runs at a time; by default one a core.

    Returns:
        What the JSON holds: ``summarise``'s object, and ``interrupted`` if a signal ended it. Besides, ``files``: each
        with what it shows. Interrupted, they show the runs that have ended; none are written if none has.

    Raises:
        InputError: no such figure or scale; ``seeds`` below 1; see ``run_curricula``.
        JobsFailedError: runs failed; the files show the others.
    """
    if number not in FIGURES:
        raise InputError(f"there is no figure {number} to make; expected {' or '.join(FIGURES)}.")
    if scale not in curricula.STEPS:
        raise InputError(f"there is no scale {scale}; expected {' or '.join(curricula.STEPS)}.")
    figure = FIGURES[number](curricula.STEPS[scale])
    name = f"figure-{number}" if scale == "cpu" else f"figure-{number}-{scale}"
    about = {"figure": number, "scale": scale}
    return figure.make(name, data, range(seeds), out, out / "runs" / scale, workers, about)
