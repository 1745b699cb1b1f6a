"""What the processes of a trial do: train with one setting, or measure a method in all; see ``jobs``."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.classify.data.prepared import open_prepared
from firstsight.lab.classify.methods.base import Answer, Classifier, asked
from firstsight.lab.classify.methods.catalogue import METHODS, NONE, Method
from firstsight.lab.classify.methods.task import Part, Task
from firstsight.lab.classify.methods.trained import Trained
from firstsight.lab.classify.outcome import Outcome, numbers, save_outcomes
from firstsight.lab.classify.runs.jobs import CHOICE, LAYER, OUTCOMES, read_choice
from firstsight.lab.classify.runs.plan import shots_of
from firstsight.lab.classify.settings import Trial
from firstsight.lab.runs.checkpoint import TENSORS, load_checkpoint, save_checkpoint
from firstsight.lab.system.files import naming, write_json

Told = Mapping[str, Any]


def make(method: Method, settings: Trial, *, setting: float, seed: int, epochs: int) -> Classifier:
    """A method, before it is fitted.

    scikit-learn and SciPy, which take a second to import, wait for those that need them: there are many processes.
    """
    if method.trained:
        return Trained(method, settings, rate=setting, seed=seed, epochs=epochs)
    if method.name == "knn":
        from firstsight.lab.classify.methods.nearest import Nearest

        return Nearest(int(setting))
    if method.name == "logistic":
        from firstsight.lab.classify.methods.logistic import Logistic

        return Logistic(setting, seed)
    from firstsight.lab.classify.methods.running import LDA, Means

    return Means() if method.name == "means" else LDA(setting)


def choose(told: Told) -> int:
    """Train on the first seed, leave the layer, and how well it does on the validation part, however classes come."""
    folder, task, settings, method, classifier = _begun(told)
    began = time.monotonic()
    classifier.fit(task)
    seconds = time.monotonic() - began
    save_checkpoint(folder / LAYER, {"state": classifier.state()})
    scores = {}
    for arrival in told["asked"]["arrivals"]:
        one = _outcome(classifier, task, method, arrival, settings.shots, told["asked"]["seed"], "valid")
        scores[arrival] = numbers(one, *_right(task.valid), task.counts.numpy(), settings.new_share)["mixed"]
    found = {"scores": scores, "seconds": seconds, "converged": classifier.converged}
    write_json(folder / CHOICE, {**found, "asked": told["asked"]})
    return 0


def measure(told: Told) -> int:
    """Let classes come in all ways, at all numbers of shots, on both parts, and leave all that was answered."""
    folder, task, settings, method, classifier = _begun(told)
    seed = told["asked"]["seed"]
    if "trained" in told:
        trained = Path(told["trained"])
        restore(classifier, task, trained / LAYER)
        seconds = read_choice(trained / CHOICE)["seconds"]
    else:
        began = time.monotonic()
        classifier.fit(task)
        seconds = time.monotonic() - began
    outcomes = []
    for part in ("valid", "test"):
        outcomes.append(_outcome(classifier, task, method, NONE, 0, seed, part))
        for arrival in told["asked"]["arrivals"]:
            for shots in shots_of(arrival, settings):
                outcomes.append(_outcome(classifier, task, method, arrival, shots, seed, part))
    about = {"asked": told["asked"], "seconds": seconds, "converged": classifier.converged}
    save_outcomes(folder / OUTCOMES, about, outcomes)
    return 0


def restore(classifier: Classifier, task: Task, path: Path) -> None:
    """Make a method what ``choose`` left of it at ``path``."""
    state = load_checkpoint(path, {"state": TENSORS})["state"]
    with naming(path, "the layer of a trial", "Delete it, and run the trial again."):
        classifier.restore(task, state)


def _begun(told: Told) -> tuple[Path, Task, Trial, Method, Classifier]:
    folder, wanted = Path(told["folder"]), told["asked"]
    for path in folder.glob(".*.part"):  # of a process that was killed while it wrote
        path.unlink()
    prepared, settings = open_prepared(Path(told["data"])), Trial.from_dict(wanted["settings"])
    if prepared.identity != wanted["identity"]:
        raise InputError(f"{told['data']}: the prepared data were changed while the trial ran. Run it again.")
    method = METHODS[wanted["method"]]
    classifier = make(method, settings, setting=wanted["setting"], seed=wanted["seed"], epochs=wanted["epochs"])
    return folder, Task(prepared), settings, method, classifier


def _right(part: Part) -> tuple[np.ndarray, np.ndarray]:
    return part.old_y.numpy(), part.new_y.numpy()


def _outcome(
    classifier: Classifier, task: Task, method: Method, arrival: str, shots: int, seed: int, name: str
) -> Outcome:
    """Let the classes of a part come, and ask."""
    part = task.part(name)
    began = time.monotonic()
    answer = classifier.answer() if arrival == NONE else classifier.arrived(arrival, part.shown_h[:, :shots])
    seconds = time.monotonic() - began if arrival != NONE else 0.0
    old, new = (_answered(answer, h, y, task) for h, y in ((part.old_h, part.old_y), (part.new_h, part.new_y)))
    given = {f"old_{k}": v for k, v in old.items()} | {f"new_{k}": v for k, v in new.items()}
    return Outcome(method.name, arrival, shots, seed, name, seconds=seconds, **given)


def _answered(answer: Answer, h: Tensor, y: Tensor, task: Task) -> dict[str, np.ndarray]:
    classes, confidence, nll = asked(answer, h, y, task.num_classes)
    return {
        "right": (classes == y).numpy(),
        "nll": nll.numpy().astype(np.float32),
        "confidence": confidence.numpy().astype(np.float32),
        "answer": classes.numpy().astype(np.int32),
    }
