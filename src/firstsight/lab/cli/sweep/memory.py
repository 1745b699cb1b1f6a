"""``firstsight sweep memory``: search for settings of the memories at test time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from firstsight.lab.cli.output import (
    Checkpoint,
    Device,
    Found,
    Json,
    MaybeInt,
    MaybePath,
    Moved,
    console,
    new_table,
    show,
    tell,
)
from firstsight.lab.system.devices import AUTO

SHOWN = 5  # points of a grid


@dataclass(frozen=True)
class Memories:
    """Choose the settings of the memories at test time on the validation split; writes RUN/memory/sweep.json.

    Give that file to eval as --tuned. Interrupted, the same command goes on after the last part that was done.

    Example: firstsight sweep memory runs/hebbian
    """

    run: Positional[Path]
    """folder of the run"""
    memory: str = "cache,mbpa"
    """which: the cache, and any of mbpa, unbounded, knn, dynamic, separated by commas"""
    split_tokens: MaybeInt = None
    """tokens of validation to use; by default all"""
    first: MaybeInt = None
    """tokens that fill the memories before they are measured; by default 10,000, or half of a shorter text"""
    tokens: int = 5000
    """tokens that all but the cache are measured on, and the weights of the mixtures"""
    two_step_tokens: int = 500
    """the first of these, on which two steps are held against one; each takes seconds with a vocabulary of 30,000;
    0 for none"""
    store: MaybePath = None
    """of kNN-LM, as firstsight store build wrote it; by default RUN/memory/store"""
    checkpoint: Checkpoint = "best"
    data: Moved = None
    device: Device = AUTO
    json: Json = False


def sweep_memories(command: Memories) -> int:
    """Choose the settings of a run's memories, draw the grids, and print them."""
    from firstsight.lab.reading.sweep import sweep_memory
    from firstsight.lab.report import write_report
    from firstsight.lab.report.memory import sweep_plots
    from firstsight.lab.system.folder import RUN, hold
    from firstsight.lab.system.manifest import check_there, forget

    run, data = command.run, None if command.data is None else str(command.data)
    options = {name: value for name, value in vars(command).items() if name not in ("run", "data", "json")}
    with hold(run, RUN, make=False):
        check_there(run / "result.json")  # the report would be without it
        found = sweep_memory(run, data=data, **options)
        for old in (run / "memory").glob("memory_*.png"):
            forget(old)
        for plot in sweep_plots(found):
            plot.save(run / "memory")
        if (run / "result.json").exists():
            write_report([run])
    return show(found, command.json, lambda found: show_sweep(found, run))


def show_sweep(found: Found, run: Path) -> None:
    """The best points of each grid, the paper's choice among them, and what was chosen."""
    from firstsight.lab.reading.memories import MEMORIES
    from firstsight.lab.system.progress import duration

    cache = found["cache"]
    usual, others = MEMORIES["cache"], MEMORIES["mbpa"]
    paper = {**usual.settings, "weight": usual.weight}
    columns = {"theta": "theta", "size": "size", "weight": "weight"}
    _table(f"{found['run']}: neural cache, {found['tokens']:,} tokens of validation", columns, cache, paper)
    mbpa = found["mbpa"]
    if mbpa:
        columns = {"k": "neighbours", "lr": "rate", "cache_weight": "cache", "mbpa_weight": "MbPA"}
        paper = {**others.settings, "cache_weight": usual.weight, "mbpa_weight": others.weight}
        where = f"{mbpa['tokens']:,} tokens after {mbpa['first']:,}"
        same = found["chosen"]["cache"] == usual.settings
        mark = "paper" if same else "paper's but theta, size"
        _table(f"MbPA and the cache chosen, weights of both, {where}", columns, mbpa, paper, mark)
        if mbpa["two_steps"]:
            _steps(mbpa["two_steps"])
    for name in ("unbounded", "knn"):
        if found[name]:
            where = f"{found[name]['tokens']:,} tokens after {found[name]['first']:,}"
            columns = {"k": "neighbours", "temperature": "temperature", "best_weight": "weight"}
            _table(f"{MEMORIES[name].label}, at its best weight, {where}", columns, found[name], {})
    if found["dynamic"]:
        columns = {"rule": "rule", "lr": "rate", "decay": "decay"}
        where = f"{found['dynamic']['tokens']:,} tokens after {found['dynamic']['first']:,}"
        _table(f"dynamic evaluation in place of the model, {where}", columns, found["dynamic"], {})
    chosen = found["chosen"]
    names = [name for name in MEMORIES if chosen[name]]
    for name in names:
        tell(f"chosen: {MEMORIES[name].label}: {_told(chosen[name])}")
    _mixtures(found)
    costs = [f"{MEMORIES[name].label} {duration(found[name]['seconds'])}" for name in names]
    tell(f"took: {', '.join(costs)}; the mixtures {duration(found['mixed']['seconds'])}")
    asked = ",".join(names)
    tell(f"Next: firstsight eval {run} --split test --memory {asked} --tuned {run / 'memory' / 'sweep.json'}")


def _mixtures(found: Found) -> None:
    """The best weights of each memory alone and of all."""
    from firstsight.lab.reading.memories import MEMORIES, label_of

    mixed, rows = found["mixed"], found["chosen"]["mixtures"]
    names = list(rows[-1]["weights"])
    shown = [row for row in rows if len(row["weights"]) in (1, len(names))]
    title = f"the best weights, {mixed['tokens']:,} tokens after {mixed['first']:,}"
    table = new_table(title, ["mixture", *(MEMORIES[name].label for name in names), "perplexity"])
    for row in shown:
        weights = [f"{row['weights'][name]:.3f}" if name in row["weights"] else "" for name in names]
        table.add_row(label_of(list(row["weights"])), *weights, _values(row["perplexity"], None)[0])
    console.print(table)


def _told(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in settings.items())


def _table(
    title: str, columns: dict[str, str], grid: dict[str, Any], paper: dict[str, Any], paper_mark: str = "paper"
) -> None:
    """The best points of a grid and the paper's, below the model alone."""
    table = new_table(title, [*columns.values(), "perplexity", "to model", ""])
    model = grid["model"]["perplexity"]
    table.add_row("model", *[""] * (len(columns) - 1), *_values(model, model), "", end_section=True)
    # Without MbPA its k and rate decide nothing: of such rows one for each weight of the cache is enough.
    distinct = {
        tuple(row[key] for key in columns if row.get("mbpa_weight") != 0 or key == "cache_weight"): row
        for row in reversed(grid["grid"])
        if row["nll"] is not None
    }
    ranked = sorted(distinct.values(), key=lambda row: row["nll"])
    theirs = [row for row in ranked if paper and all(row[key] == paper[key] for key in columns)]
    without = [row for row in ranked if row.get("mbpa_weight") == 0][:1]
    for row in ranked:
        if row in ranked[:SHOWN] or row in without or row in theirs:
            mark = paper_mark if row in theirs else "no MbPA" if row in without else ""
            idle = ("k", "lr") if row in without else ()  # they decide nothing there
            cells = ["" if key in idle else _cell(row[key]) for key in columns]
            table.add_row(*cells, *_values(row["perplexity"], model), mark)
    console.print(table)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _steps(found: Found) -> None:
    """One step of MbPA and two, each with its best weights."""
    names = ["neighbours", "rate", "one step", "to model", "two steps", "to model"]
    table = new_table(f"MbPA in two steps, the first {found['tokens']:,} of these tokens", names)
    model = found["model"]["perplexity"]
    for row in found["grid"]:
        pairs = [value for name in ("one", "two") for value in _values(row[name]["perplexity"], model)]
        table.add_row(f"{row['k']:,}", f"{row['lr']:g}", *pairs)
    console.print(table)


def _values(value: float | None, model: float | None) -> tuple[str, str]:
    """A perplexity, with two decimals since points lie close together, and its difference to the model's."""
    from firstsight.lab.report.tables import format_relative, relative
    from firstsight.lab.system.progress import readable

    return "" if value is None else readable(value), format_relative(relative(value, model))
