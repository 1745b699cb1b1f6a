"""The process of one job of a study: ``python -m engram.study_job JSON``, started by ``study_run``."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.config import Config
from engram.data import open_corpus
from engram.files import write_json
from engram.processes import run_task
from engram.results import evaluate_run
from engram.training import DivergedError, train


def work(job: Mapping[str, Any]) -> int:
    """What the process of a job does: train or go on, evaluate, and leave ``outcome.json``. Gives its exit code."""
    folder = Path(job["folder"])
    try:
        outcome = vars(train(open_corpus(job["data"]), folder, Config.from_dict(job["config"]), resume=True))
    except DivergedError as error:
        write_json(Path(job["outcome"]), {"reason": "diverged", "message": str(error)})
        return 0
    if outcome["reason"].startswith("SIG"):
        return 128 + signal.Signals[outcome["reason"]]
    write_json(Path(job["outcome"]), outcome)
    evaluate_run(folder, job["split"], checkpoint="last", data=job["data"])  # all at equally many tokens
    return 0


if __name__ == "__main__":
    run_task(work)
