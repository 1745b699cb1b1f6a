"""The process of one curriculum: ``python -m firstsight.lab.studies.curriculum_worker JSON``."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.lab.curriculum.loop import run_curriculum
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.data.omniglot import open_omniglot
from firstsight.lab.studies.jobs import run_task
from firstsight.lab.system.progress import Bar


def work(told: Mapping[str, Any]) -> int:
    """Train or go on, and leave ``result.json``. Gives the exit code of the process."""
    settings = Curriculum.from_dict(told["settings"])
    images = open_omniglot(told["data"]).images
    with Bar("step", settings.max_steps) as bar:

        def progress(record: Mapping[str, Any]) -> None:
            if record["event"] == "check":
                bar.update(record["step"], f"{record['classes']} classes, accuracy {record['accuracy']:.2f}")

        reason = run_curriculum(images, settings, progress=progress, out=Path(told["folder"]))["reason"]
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


if __name__ == "__main__":
    run_task(work)
