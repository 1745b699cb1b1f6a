"""The main job on the corpus inside Python: train a plain softmax and two that write, evaluate, compare."""

import time
from pathlib import Path
from typing import Any

from firstsight.lab.data import open_corpus, stdlib
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.lm.training import Outcome, train
from firstsight.lab.report import write_report
from firstsight.lab.system.progress import say

# One recipe, three output layers: none that writes, the rule that docs/when.md recommends, and the paper's.
RUNS: dict[str, dict[str, Any]] = {
    "softmax": {"head": "softmax"},
    "centered": {"head": "hebbian", "rule": "centered"},
    "hebbian": {"head": "hebbian", "rule": "paper", "T": 500, "gamma": 0.01},
}


def run_demo(out: Path, config: Config) -> dict[str, Any]:
    """Prepare the corpus, train ``RUNS`` from the same seed, evaluate them on the test split, write the report.

    What is done already in ``out`` (by a run that was interrupted) is not done again.

    Returns:
        ``{"runs": {"softmax": result, "centered": result, "hebbian": result}, "report": path, "seconds": time}``; with
        ``"interrupted": signal`` instead of a report if training was ended by a signal.
    """
    start = time.perf_counter()
    data = out / "data"
    corpus = open_corpus(data) if (data / "meta.json").exists() else stdlib.prepare(data)
    tokens = corpus.meta["tokens"]
    say(f"corpus: {tokens['train']:,} training tokens of Python's own documentation, {len(corpus.vocabulary):,} types")
    for name, settings in RUNS.items():
        outcome: Outcome = train(corpus, out / name, config.replace(**settings), resume=True)
        if outcome.reason.startswith("SIG"):
            return {"runs": {}, "interrupted": outcome.reason, "seconds": time.perf_counter() - start}
    runs = {name: evaluate_run(out / name, "test") for name in RUNS}
    report = write_report([out / name for name in RUNS], out)
    return {"runs": runs, "report": str(report), "seconds": round(time.perf_counter() - start, 1)}
