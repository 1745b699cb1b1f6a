"""``firstsight eval``: perplexity of a trained run, with memories of the text before if asked."""

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from firstsight.errors import InputError
from firstsight.lab.cli.output import Checkpoint, Device, Found, Json, MaybePath, MaybeText, Moved, console, show, tell
from firstsight.lab.system.devices import AUTO

MANY = 0.02  # share of unknown tokens from which on it is told


def evaluate(
    run: Positional[Path],
    split: Literal["valid", "test"] = "valid",
    memory: MaybeText = None,
    tuned: MaybePath = None,
    by_band: bool = False,
    by_document: bool = False,
    store: MaybePath = None,
    checkpoint: Checkpoint = "best",
    data: Moved = None,
    device: Device = AUTO,
    json: Json = False,
) -> int:
    """Perplexity of a trained run, overall and by training frequency; writes its result.json and report.html.

    With --memory also under memories, of the text just read or of the training text; passage.html then shows a passage
    token by token. Interrupted, the same command goes on.

    Example: firstsight eval runs/hebbian --split test

    Example: firstsight eval runs/hebbian --split test --memory cache,mbpa --tuned runs/hebbian/memory/sweep.json

    Args:
        run: folder of the run.
        split: which text.
        memory: one or more of cache, mbpa, unbounded, knn, dynamic, separated by commas: neural cache, MbPA, unbounded
            cache, kNN-LM over a store, dynamic evaluation; by default none.
        tuned: settings of the memories that sweep memory chose, RUN/memory/sweep.json; by default the paper's.
        by_document: forget what a document said where the next one begins, if the corpus knows where.
        store: of kNN-LM, as firstsight store build wrote it; by default RUN/memory/store.
        by_band: weights of the whole mixture by how often training had the word before, from that file.
    """
    from firstsight.lab.lm.results import evaluate_run
    from firstsight.lab.report import write_report
    from firstsight.lab.system.folder import RUN, hold

    where: dict[str, Any] = {"checkpoint": checkpoint, "data": data, "device": device}
    if memory is None and by_band:
        raise InputError("--by-band chooses the weights of memories: say which with --memory cache,mbpa.")
    if memory is None and tuned is not None:
        raise InputError(f"--tuned {tuned} holds settings of memories: say which with --memory cache,mbpa.")
    with hold(run, RUN, make=False):
        if memory is not None:
            from firstsight.lab.reading.recalled import recall_run

            result = recall_run(
                run, split, memory, tuned=tuned, by_band=by_band, by_document=by_document, store=store, **where
            )
        else:
            result = evaluate_run(run, split, **where)
        write_report([run])
    return show(result, json, print_result)


def print_result(found: Found) -> None:
    """The table of one evaluation: with its memories where it has any."""
    from firstsight.lab.report import comparison_table

    if found["memory"]:
        from firstsight.lab.report.memory import memory_table, told

        console.print(memory_table(found))
        tell(told(found["memory"]))
    else:
        console.print(comparison_table({found["run"]: found}))
    if (found.get("unknown") or 0.0) > MANY:
        tell(
            f"{found['unknown']:.1%} of these tokens are <unk>, one class that is easily guessed: a perplexity of text "
            "with another share cannot be held against this one."
        )
