"""``firstsight study``: variants x seeds, compared."""

from functools import partial
from pathlib import Path

from tyro.conf import Positional

from firstsight.lab.cli.output import Found, Json, MaybeInt, MaybePath, show, tell


def study(
    recipe: Positional[Path],
    out: MaybePath = None,
    workers: MaybeInt = None,
    dry_run: bool = False,
    json: Json = False,
) -> int:
    """Train variants x seeds x regimes as a recipe says, and compare them seed by seed.

    Uses all cores, a run on each. Interrupted or killed, the same command goes on; so does one with a longer recipe.

    Example: firstsight study benchmarks/study/gutenberg.yaml --out runs/books

    Args:
        recipe: a file in YAML: data, base, regimes, variants, baseline, seeds and split.
        out: folder for the runs, study.json, table.md and study.png; by default runs/ and the recipe's name.
        workers: runs at a time; by default one a core.
        dry_run: list the jobs and the settings they differ in, and run nothing.
    """
    from firstsight.lab.report.study_figure import draw_study
    from firstsight.lab.studies.study import list_study, run_study

    out = Path("runs") / recipe.stem if out is None else out
    if dry_run:
        return show(list_study(recipe, out), json, _listed)
    return show(run_study(recipe, out, workers, partial(draw_study, out)), json, lambda found: _studied(found, out))


def _listed(found: Found) -> None:
    for group in found["groups"]:
        seeds = ", ".join(
            f"{seed} ({state})" if state != "waiting" else str(seed) for seed, state in group["seeds"].items()
        )
        settings = " ".join(f"{name}={value}" for name, value in group["settings"].items())
        tell(f"{group['data']} {group['regime']} {group['variant']}: seeds {seeds}: {settings}")
    tell(f"{found['jobs']} jobs, {found['waiting']} to run; a line has the settings that are not the same in all")


def _studied(found: Found, out: Path) -> None:
    tell(*(out / "table.md").read_text(encoding="utf-8").split("\n"))
    if "interrupted" in found:
        tell(f"ended by {found['interrupted']}; the same command goes on")
    tell(f"{out}/study.json, {out}/table.md, {out}/study.png")
