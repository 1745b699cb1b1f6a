"""``firstsight demo``: the main job on the corpus inside Python, a plain softmax and two that write."""

import time
from pathlib import Path
from typing import Any

from firstsight.lab.cli.output import Found, Json, console, show, tell
from firstsight.lab.lm.recipes import RECIPES, recipe
from firstsight.lab.system.folder import DEMO, hold
from firstsight.lab.system.progress import duration, say

# One recipe, three output layers: one that does not write, the default, and the paper's rule.
RUNS: dict[str, dict[str, Any]] = {
    "softmax": {"head": "softmax"},
    "hebbian": {"head": "hebbian"},
    "paper": {"head": "hebbian", "rule": "paper", "T": 500, "gamma": 0.01},
}


def demo(out: Path = Path("runs/demo"), json: Json = False, seed: int = 0, steps: int = RECIPES["demo"].steps) -> int:
    """Train a plain softmax, one that writes, and the paper's rule on the text that every Python carries; compare them.

    Takes about five minutes on two cores and needs no network. Interrupted, the same command goes on.

    Example: firstsight demo --out runs/demo

    Args:
        out: folder for the data, the runs and the report.
        seed: all of them start from it.
        steps: training steps of each.
    """
    say(f"everything goes into {out}")  # before what takes long to load
    with hold(out, DEMO):
        return show(_demo(out, seed, steps), json, _print_demo)


def _demo(out: Path, seed: int, steps: int) -> Found:
    from firstsight.lab.data import open_corpus, stdlib
    from firstsight.lab.lm.dry_run import run_seconds
    from firstsight.lab.lm.results import evaluate_run
    from firstsight.lab.lm.training import train
    from firstsight.lab.report import write_report
    from firstsight.lab.runs.metrics import last_step

    start = time.perf_counter()
    config = recipe("demo").replace(seed=seed, steps=steps)
    data = out / "data"
    corpus = open_corpus(data) if (data / "meta.json").exists() else stdlib.prepare(data)
    tokens = corpus.meta["tokens"]
    say(f"corpus: {tokens['train']:,} training tokens of Python's own documentation, {len(corpus.vocabulary):,} types")
    configs = {name: config.replace(**settings) for name, settings in RUNS.items()}
    left = [run_seconds(corpus, of, done=last_step(out / name / "metrics.jsonl")) for name, of in configs.items()]
    say(f"{len(RUNS)} runs of {steps:,} steps: about {duration(sum(left))} on this machine")
    for name, of in configs.items():
        outcome = train(corpus, out / name, of, resume=True)
        if outcome.reason.startswith("SIG"):
            return {"runs": {}, "interrupted": outcome.reason, "seconds": time.perf_counter() - start}
    runs = {name: evaluate_run(out / name, "test") for name in RUNS}
    report = write_report([out / name for name in RUNS], out)
    return {"runs": runs, "report": str(report), "seconds": round(time.perf_counter() - start, 1)}


def _print_demo(found: Found) -> None:
    from firstsight.lab.report import comparison_table
    from firstsight.lab.report.tables import verdict

    if "interrupted" in found:
        say(f"ended by {found['interrupted']}; the same command goes on")
        return
    console.print(comparison_table(found["runs"]))
    tell(verdict(found["runs"]))
    tell(f"Report: {found['report']}   ({found['seconds'] / 60:.1f} min)")
    tell("Next: your own text.", "  firstsight data text --from FILE --out data/mine")
    tell("  firstsight train data/mine --out runs/mine --head hebbian", "  firstsight score runs/mine FILE")
