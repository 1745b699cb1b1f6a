"""The process of one job of a study: ``python -m engram.study_job JSON``, started by ``study_run``."""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engram.config import Config
from engram.data import open_corpus
from engram.errors import InputError
from engram.files import write_json
from engram.results import evaluate_run
from engram.training import DivergedError, train


def work(job: Mapping[str, Any]) -> int:
    """What the process of a job does: train or go on, evaluate, and leave ``outcome.json``. Gives its exit code."""
    sys.argv = list(job["command"])  # what result.json is to say made it
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
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


def _end_with_parent() -> None:
    """End as SIGTERM does when the study is gone: standard input is a pipe of which it alone holds the other end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(work(json.loads(sys.argv[1])))
    except (InputError, OSError) as error:
        print(f"engram: {error}", file=sys.stderr)
        sys.exit(2)
