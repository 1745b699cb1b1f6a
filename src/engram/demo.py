"""The main job on the corpus inside Python: train a plain softmax and a Hebbian one, evaluate, compare."""

import time
from pathlib import Path
from typing import Any

from engram.config import Config
from engram.data import open_corpus, stdlib
from engram.progress import say
from engram.report import write_report
from engram.results import evaluate_run
from engram.training import Outcome, train

HEADS = ("softmax", "hebbian")


def run_demo(out: Path, config: Config) -> dict[str, Any]:
    """Prepare the corpus, train both heads from the same seed, evaluate both on the test split, write the report.

    What is done already in ``out`` (by a run that was interrupted) is not done again.

    Returns:
        ``{"runs": {"softmax": result, "hebbian": result}, "report": path, "seconds": time}``; with
        ``"interrupted": signal`` instead of a report if training was ended by a signal.
    """
    start = time.perf_counter()
    data = out / "data"
    corpus = open_corpus(data) if (data / "meta.json").exists() else stdlib.prepare(data)
    tokens = corpus.meta["tokens"]
    say(f"corpus: {tokens['train']:,} training tokens of Python's own documentation, {len(corpus.vocabulary):,} types")
    for head in HEADS:
        outcome: Outcome = train(corpus, out / head, config.replace(head=head), resume=True)
        if outcome.reason.startswith("SIG"):
            return {"runs": {}, "interrupted": outcome.reason, "seconds": time.perf_counter() - start}
    runs = {head: evaluate_run(out / head, "test") for head in HEADS}
    report = write_report([out / head for head in HEADS], out)
    return {"runs": runs, "report": str(report), "seconds": round(time.perf_counter() - start, 1)}
