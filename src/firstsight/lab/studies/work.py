"""What the processes of studies do: a language model, or a curriculum; see ``runs.jobs``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.lab.runs.worker import exit_code
from firstsight.lab.system.files import write_json
from firstsight.lab.system.progress import Bar

Told = Mapping[str, Any]


def train_and_evaluate(told: Told) -> int:
    """Train a language model or go on, leave ``outcome.json``, and evaluate it on ``split``, unless that is empty.

    Gives the exit code of the process.
    """
    from firstsight.lab.data import open_corpus
    from firstsight.lab.lm.config import Config
    from firstsight.lab.lm.results import evaluate_run
    from firstsight.lab.lm.state import DivergedError
    from firstsight.lab.lm.training import train

    folder, outcome = Path(told["folder"]), Path(told["outcome"])
    try:
        found = vars(train(open_corpus(told["data"]), folder, Config.from_dict(told["config"]), resume=True))
    except DivergedError as error:
        write_json(outcome, {"reason": "diverged", "message": str(error)})
        return 0
    if found["reason"].startswith("SIG"):
        return exit_code(found["reason"])
    write_json(outcome, found)
    if told["split"]:
        evaluate_run(folder, told["split"], checkpoint="last", data=told["data"])  # all at equally many tokens
    return 0


def teach(told: Told) -> int:
    """Train through a curriculum or go on, and leave ``result.json``. Gives the exit code of the process."""
    from firstsight.lab.curriculum.loop import run_curriculum
    from firstsight.lab.curriculum.settings import Curriculum
    from firstsight.lab.data.omniglot import open_omniglot

    settings = Curriculum.from_dict(told["settings"])
    images = open_omniglot(told["data"]).images
    with Bar("step", settings.max_steps) as bar:

        def progress(record: Mapping[str, Any]) -> None:
            if record["event"] == "check":
                bar.update(record["step"], f"{record['classes']} classes, accuracy {record['accuracy']:.2f}")

        reason = run_curriculum(images, settings, progress=progress, out=Path(told["folder"]))["reason"]
    return exit_code(reason)
