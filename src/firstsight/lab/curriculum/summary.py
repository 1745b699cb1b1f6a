"""Curricula as one JSON object: what a figure is drawn from, and what is kept of the runs behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.lab.curriculum import numbers
from firstsight.lab.curriculum.binding import PRESENTATIONS
from firstsight.lab.curriculum.loop import MILESTONES
from firstsight.lab.curriculum.numbers import Runs
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.system.machine import provenance


@dataclass(frozen=True)
class Panel:
    """Lines that are drawn together: ``lines`` names the variant of each; the first is what others are held against."""

    title: str
    lines: Mapping[str, str]
    row: str = ""


def summarise(
    panels: Sequence[Panel], variants: Mapping[str, Curriculum], results: Mapping[str, Runs], **about: Any
) -> dict[str, Any]:
    """The JSON object of a figure.

    Returns:
        ``about`` and: ``steps``, the cap; ``axes``; ``panels``, each with its ``lines``: ``settings``; ``runs``, by
        seed the ``steps``, ``classes`` and ``reason`` of the end, ``steps_to``, ``accuracy_all`` and ``oldest`` at
        the end; bands (see ``numbers.band``) of ``classes`` at ``axes.step``, of ``new_classes`` at
        ``axes.presentations``, of ``oldest`` and ``oldest_among_themselves`` at ``axes.classes``; and ``ratios``
        to the panel's first line (see ``numbers.ratios``). Then where it comes from: ``images``; ``core_seconds``
        of all runs together; ``run_by``, the commands, commits and machines of the runs; and of this summary.
    """
    names = [name for panel in panels for name in panel.lines.values()]
    used = [variants[name] for name in names]
    steps = max(settings.max_steps for settings in used)
    every = min(settings.check_every for settings in used)
    axes = {
        "step": sorted({*range(0, steps + 1, every), steps}),
        "presentations": list(PRESENTATIONS),
        "classes": [used[0].start, *MILESTONES],
    }
    runs = [result for name in sorted(set(names)) for result in results[name].values()]
    return {
        **about,
        "steps": steps,
        "axes": axes,
        "panels": [_panel(panel, variants, results, axes["step"]) for panel in panels],
        "images": runs[0]["images"] if runs else None,
        "core_seconds": round(sum(sum(run["seconds"].values()) for run in runs), 1),
        "run_by": {key: sorted({str(run[key]) for run in runs}) for key in ("command", "git_commit", "machine")},
        "made_by": provenance(),
    }


def _panel(
    panel: Panel, variants: Mapping[str, Curriculum], results: Mapping[str, Runs], steps: Sequence[int]
) -> dict[str, Any]:
    by_line = {line: results[variant] for line, variant in panel.lines.items()}
    new = numbers.new_class_accuracy(by_line)
    base = next(iter(by_line.values()))
    lines = []
    for at, (line, runs) in enumerate(by_line.items()):
        settings = {k: v for k, v in variants[panel.lines[line]].to_dict().items() if k not in ("seed", "save_seconds")}
        curves = [[float(n) for n in numbers.classes_at(run, steps)] for run in runs.values()]
        found: dict[str, Any] = {
            "name": line,
            "variant": panel.lines[line],
            "settings": settings,
            "runs": {str(seed): _run(run) for seed, run in runs.items()},
            "classes": numbers.band(curves) if curves else None,
            "new_classes": _band(new[line]),
            "oldest": _band(numbers.oldest_accuracy(runs)),
            "oldest_among_themselves": _band(numbers.oldest_accuracy(runs, "among_themselves")),
            "median_steps": {str(classes): numbers.median_steps(runs, classes) for classes in MILESTONES},
        }
        if at:
            found["ratios"] = numbers.ratios(base, runs)
        lines.append(found)
    return {"row": panel.row, "title": panel.title, "lines": lines}


def _band(values: Mapping[int, Sequence[float | None]]) -> dict[str, Any] | None:
    if not values:
        return None
    return {**numbers.band(numbers.as_rows(values)), "seeds": {str(seed): row for seed, row in values.items()}}


def _run(result: Mapping[str, Any]) -> dict[str, Any]:
    final = result["final"]
    end = {key: result[key] for key in ("steps", "classes", "reason", "steps_to")}
    return {**end, "accuracy_all": round(final["accuracy_all"], 4), "oldest": round(final["accuracy"], 4)}
