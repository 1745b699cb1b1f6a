"""``firstsight sweep lm`` and ``sweep show``: a search for settings of the language model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from firstsight.errors import InputError
from firstsight.lab.cli.output import Found, Json, MaybeInt, MaybePath, MaybeText, console, new_table, show, tell
from firstsight.lab.cli.sweep.live import LiveTable, points_table
from firstsight.lab.runs.head import HeadName
from firstsight.lab.system.progress import duration, is_utf8, readable

if TYPE_CHECKING:
    from firstsight.lab.studies.search.space import Search

SHOWN = 10  # points


@dataclass(frozen=True)
class LanguageModels:
    """Train a language model at every point of a grid, or where a sampler looks, and rank them by validation.

    Interrupted or killed, the same command goes on. The same command on other machines, with one --storage for all,
    works at the same search. Writes sweep.json, report.html and best.yaml, which train takes as --config.

    Example: firstsight sweep lm data/stdlib --scale cpu --workers 2

    Example: firstsight sweep lm data/wikitext-2 --grid benchmarks/study/search.yaml --dry-run

    Example: firstsight sweep lm data/wikitext-103 --storage postgresql://me@host/sweeps
    """

    data: Positional[MaybePath] = None
    """data folder; by default the one that the YAML file names"""
    grid: str = "paper"
    """paper, for the 96 points of its appendix A.1, or a file in YAML: data, base, grid or search, trials, sampler,
    seeds, prune (docs/sweep.md)"""
    scale: Literal["paper", "cpu"] | None = None
    """of --grid paper: paper, its sizes, by default; cpu: the same grid of small LSTMs, in runs of seconds"""
    head: HeadName | None = None
    """of --grid paper: the output layer; by default softmax"""
    out: MaybePath = None
    """folder for runs and results; by default runs/ and the name of the grid"""
    storage: MaybeText = None
    """where the search is kept: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for many machines; by default
    sweep.db in --out"""
    study: MaybeText = None
    """its name there; by default that of the folder --out"""
    workers: MaybeInt = None
    """trials at a time on this machine; by default one a core, or one with a GPU"""
    seeds: MaybeInt = None
    """runs of each point, with the seeds from 0; points are ranked by their mean. By default 1, or as in the file"""
    trials: MaybeInt = None
    """points of a search, in place of the file's"""
    steps: MaybeInt = None
    """optimizer steps of each run, in place of the grid's"""
    prune: bool = False
    """end runs that are worse than the median of those before, at their validations; searches do by default"""
    heartbeat: int = 15
    """seconds between a worker's signs of life; after four times as long without one its trial is run again"""
    again: bool = False
    """try points again that had failed"""
    dry_run: bool = False
    """list the points and what they will cost, by a few steps of one of them, and run nothing"""
    json: Json = False


@dataclass(frozen=True)
class Shown:
    """Show how far a search is and what it found; draws its plots and report.html from its storage.

    Example: firstsight sweep show runs/paper-cpu
    """

    out: Positional[Path]
    """folder of a search"""
    storage: MaybeText = None
    """where the search is kept; by default as sweep.json says, without a password"""
    json: Json = False


def sweep_lm(command: LanguageModels) -> int:
    """Start a search or go on with it."""
    from firstsight.lab.report.sweep import write_sweep_report
    from firstsight.lab.studies.search.search import list_search, run_search
    from firstsight.lab.studies.search.storage import open_storage, open_study, storage_url
    from firstsight.lab.system.folder import SEARCH, hold

    search = _search(command)
    data = str(command.data) if command.data else search.data
    if data is None:
        raise InputError("no data was named. Give the data folder, as in: firstsight sweep lm data/stdlib --scale cpu")
    if command.dry_run:
        return show(list_search(search, data, command.workers), command.json, _print_listed)
    out = _out(command)
    url, study = storage_url(command.storage, out), command.study or out.resolve().name
    for what, name in (("storage", str(url.database)), ("study", study)):
        if not is_utf8(name):
            raise InputError(f"the {what} {name} is no UTF-8, which a database needs. Name another with --{what}.")
    with hold(out, SEARCH):
        with LiveTable() as table:
            options: dict[str, Any] = {"heartbeat": command.heartbeat, "again": command.again, "look": table.look}
            found = run_search(search, data, out, url, study, workers=command.workers, **options)
        report = write_sweep_report(out, open_study(open_storage(url), study), found)
    return show({**found, "report": str(report)}, command.json, print_search)


def _search(command: LanguageModels) -> "Search":
    """What the flags say is searched."""
    import dataclasses

    from firstsight.lab.studies.search.space import load_search, paper_grid
    from firstsight.lab.system.settings import check_seeds
    from firstsight.lab.system.shape import shown

    for name in ("seeds", "trials", "steps"):
        value = getattr(command, name)
        if value is not None and not 1 <= value < 2**63:
            raise InputError(f"{name} is {shown(value)}; expected 1 or more.")
    if command.grid == "paper":
        if command.trials is not None:
            raise InputError("--trials is of a search in a YAML file; the paper's grid has 96 points.")
        found = paper_grid(command.scale or "paper", command.head or "softmax", command.steps, command.seeds or 1)
        return dataclasses.replace(found, prune=command.prune)
    for name in ("scale", "head"):
        if getattr(command, name) is not None:
            raise InputError(f"--{name} is of --grid paper. Write it into {command.grid}, under base.")
    found = load_search(command.grid)
    changes: dict[str, Any] = {"prune": found.prune or command.prune}
    if command.trials is not None:
        if found.sampler == "grid":
            raise InputError(f"--trials is of a search, and {command.grid} is a grid, of {found.trials} points.")
        changes["trials"] = command.trials
    if command.seeds is not None:
        check_seeds(command.seeds)
        changes["seeds"] = list(range(command.seeds))
    if command.steps is not None:
        changes["base"] = {**found.base, "steps": command.steps}
    return dataclasses.replace(found, **changes)


def _out(command: LanguageModels) -> Path:
    name = f"paper-{command.scale or 'paper'}" if command.grid == "paper" else Path(command.grid).stem
    return command.out or Path("runs") / name


def show_search(command: Shown) -> int:
    """Read a search from its storage, and draw it."""
    from firstsight.lab.report.sweep import write_sweep_report
    from firstsight.lab.studies.search.search import RESULT, keep
    from firstsight.lab.studies.search.storage import FILE, open_storage, open_study, shown, storage_url
    from firstsight.lab.system.files import naming, read_json
    from firstsight.lab.system.folder import SEARCH, hold
    from firstsight.lab.system.machine import provenance
    from firstsight.lab.system.shape import TEXT

    shape = {"storage": TEXT, "study": TEXT, "folder": TEXT}
    known = read_json(command.out / RESULT, "what firstsight sweep lm writes", shape, "Run that again.")
    url = storage_url(command.storage or known["storage"], command.out)
    if url.get_backend_name() == "sqlite" and not command.storage and (command.out / FILE).exists():
        url = storage_url(None, command.out)  # the folder may have been moved
    study = open_study(open_storage(url), known["study"])
    made = {name: known[name] for name in provenance() if name in known}  # of the search, not of this look at it
    with hold(command.out, SEARCH), naming(url.database or shown(url), "a search"):
        found = keep(study, url, known["folder"], command.out, made)
        report = write_sweep_report(command.out, study, found)
    return show({**found, "report": str(report)}, command.json, print_search)


def print_search(found: Found) -> None:
    """How far a search is, its best points, and where the winner's settings are."""
    console.print(points_table(found, SHOWN))
    for point in found["points"]:
        if point["state"] in ("failed", "diverged"):
            console.print(f"point {point['point']} {point['state']}: {point['message']}", soft_wrap=True)
    if "interrupted" in found:
        tell(f"ended by {found['interrupted']}; the same command goes on")
    if found["config"]:
        tell(f"Next: firstsight train {found['folder']} --config {found['config']} --out runs/winner")
    if "report" in found:
        tell(f"Report: {found['report']}")


def _print_listed(found: Found) -> None:
    if found["sampler"] == "grid":
        names = list(found["space"])
        table = new_table(f"{len(found['points'])} points", ["point", *names, "time"])
        for point in found["points"]:
            values = [str(point["settings"][name]) for name in names]
            table.add_row(str(point["point"]), *values, duration(point["seconds"]))
        console.print(table)
    else:
        tell(f"{len(found['points'])} points, drawn by {found['sampler']}:")
        for name, of in found["space"].items():
            tell(f"  {name}: {of}")
    measured = found["measured"]
    tell(
        f"{found['tokens']:,} tokens of training with seeds {', '.join(map(str, found['seeds']))}. Point "
        f"{measured['point']} was tried: {readable(measured['tokens_per_second'])} tokens/s, "
        f"{duration(measured['seconds'])} here; the others by their operations. In all about "
        f"{duration(found['seconds'])} for one worker, {duration(found['seconds_left'])} for {found['workers']}, "
        f"without pruning."
    )
