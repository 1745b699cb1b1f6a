"""The process of one job of a study: ``python -m firstsight.lab.studies.study_worker JSON``."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.lab.data import open_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.lm.training import DivergedError, train
from firstsight.lab.studies.jobs import run_task
from firstsight.lab.system.files import write_json


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
